//! Lists: revisions, pages, selectors, forms.

use serde_json::{Value, json};
use store::Revision;

use crate::server::{CONFIG_MAPS, SERVICES, Server, config_map};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

async fn filled(names: &[&str]) -> Server {
    let server = Server::start().await;
    for name in names {
        let mut object = config_map(name, json!({"k": name}));
        object["metadata"]["labels"] = json!({"name": name});
        server.post(CONFIG_MAPS, &object).await.ok();
    }
    server
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_list_is_of_one_revision_and_in_order() {
    let server = filled(&["b", "a", "c"]).await;
    let list = server.get(CONFIG_MAPS).await.ok();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(names(&list), ["a", "b", "c"]);
    // The list says what its members are.
    assert!(list["items"][0].get("kind").is_none() && list["items"][0].get("apiVersion").is_none());
    let revision = server.store.revision().await.unwrap();
    assert_eq!(list["metadata"]["resourceVersion"], revision.to_string());
    let everywhere = server.get("/api/v1/configmaps").await.ok();
    assert_eq!(names(&everywhere), ["a", "b", "c"]);
}

#[tokio::test]
async fn pages_are_of_the_first_ones_revision() {
    let server = filled(&["a", "b", "c", "d"]).await;
    let first = server.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    server.delete(&format!("{CONFIG_MAPS}/c"), &json!({})).await.ok();
    server.post(CONFIG_MAPS, &config_map("e", json!({}))).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());
    server.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.fails(400, "BadRequest");
}

#[tokio::test]
async fn selected_pages_are_full_until_the_last() {
    let server = filled(&["a", "b", "c", "d", "e"]).await;
    let selector = "labelSelector=name%20notin%20(b,c)";
    let first = server.get(&format!("{CONFIG_MAPS}?limit=2&{selector}")).await.ok();
    assert_eq!(names(&first), ["a", "d"]);
    assert!(first["metadata"].get("remainingItemCount").is_none());
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{CONFIG_MAPS}?limit=2&{selector}&continue={token}")).await.ok();
    assert_eq!(names(&second), ["e"]);
}

#[tokio::test]
async fn a_selected_page_is_filled_from_far_away_at_one_revision() {
    let server = filled(&["a"]).await;
    for n in 0..150 {
        server.post(CONFIG_MAPS, &config_map(&format!("m{n:03}"), json!({}))).await.ok();
    }
    for name in ["y", "z"] {
        let mut object = config_map(name, json!({}));
        object["metadata"]["labels"] = json!({"name": name});
        server.post(CONFIG_MAPS, &object).await.ok();
    }
    let first = server.get(&format!("{CONFIG_MAPS}?limit=2&labelSelector=name")).await.ok();
    assert_eq!(names(&first), ["a", "y"]);
    assert_eq!(first["metadata"]["resourceVersion"], server.store.revision().await.unwrap().to_string());
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{CONFIG_MAPS}?limit=2&labelSelector=name&continue={token}")).await.ok();
    assert_eq!(names(&second), ["z"]);
    assert!(second["metadata"].get("continue").is_none());
    let none = server.get(&format!("{CONFIG_MAPS}?limit=2&labelSelector=name%3Dnone")).await.ok();
    assert!(names(&none).is_empty() && none["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn an_expired_token_comes_with_one_that_goes_on_anyhow() {
    let server = filled(&["a", "b", "c"]).await;
    let first = server.get(&format!("{CONFIG_MAPS}?limit=1")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.post(CONFIG_MAPS, &config_map("d", json!({}))).await.ok();
    server.store.compact(server.store.revision().await.unwrap()).await.unwrap();
    let status = server.get(&format!("{CONFIG_MAPS}?limit=1&continue={token}")).await.fails(410, "Expired");
    let token = status["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&rest), ["b", "c"]);
    let token = rest["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&rest), ["d"]);
}

#[tokio::test]
async fn exact_revisions_are_read_from_history() {
    let server = filled(&["a"]).await;
    let then = server.store.revision().await.unwrap();
    server.delete(&format!("{CONFIG_MAPS}/a"), &json!({})).await.ok();
    let exact = format!("{CONFIG_MAPS}?resourceVersion={then}&resourceVersionMatch=Exact");
    assert_eq!(names(&server.get(&exact).await.ok()), ["a"]);
    let newer = format!("{CONFIG_MAPS}?resourceVersion={then}&resourceVersionMatch=NotOlderThan");
    assert!(names(&server.get(&newer).await.ok()).is_empty());
    server.store.compact(server.store.revision().await.unwrap()).await.unwrap();
    let status = server.get(&exact).await.fails(410, "Expired");
    assert_eq!(status["message"], "The resourceVersion for the provided list is too old.");
}

#[tokio::test]
async fn parameters_without_meaning_are_refused() {
    let server = filled(&[]).await;
    for query in [
        "resourceVersionMatch=Exact",
        "resourceVersionMatch=Exact&resourceVersion=0",
        "resourceVersionMatch=Odd&resourceVersion=1",
        "sendInitialEvents=true",
        "watch=1&sendInitialEvents=true",
        "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1",
        "watch=1&continue=abc",
    ] {
        server.get(&format!("{CONFIG_MAPS}?{query}")).await.fails(422, "Invalid");
    }
    for query in [
        "resourceVersion=x",
        "limit=x",
        "watch=1&timeoutSeconds=x",
        "labelSelector=a%3D%3D%3Db",
        "fieldSelector=spec.none%3D1",
    ] {
        server.get(&format!("{CONFIG_MAPS}?{query}")).await.fails(400, "BadRequest");
    }
    let status = server.get(&format!("{CONFIG_MAPS}?limit=9223372036854775808")).await.fails(400, "BadRequest");
    assert_eq!(status["message"], "strconv.ParseInt: parsing \"9223372036854775808\": value out of range");
    server.get(&format!("{CONFIG_MAPS}?limit=-1&timeoutSeconds=-1")).await.ok();
    let status = server.get(&format!("{CONFIG_MAPS}?fieldSelector=spec.none%3D1")).await.json();
    let known = r#""spec.none" is not a known field selector: only "metadata.name", "metadata.namespace""#;
    assert_eq!(status["message"], known);
    let status = server.get(&format!("{SERVICES}?fieldSelector=spec.none%3D1")).await.json();
    assert_eq!(status["message"], "field label not supported: spec.none");
}

#[tokio::test]
async fn a_revision_from_the_future_is_waited_for_then_refused() {
    let server = filled(&["a"]).await;
    let now = server.store.revision().await.unwrap();
    let future = Revision(now.0 + 1000);
    let status = server.get(&format!("{CONFIG_MAPS}?resourceVersion={future}")).await.fails(504, "Timeout");
    assert_eq!(status["message"], format!("Timeout: Too large resource version: {future}, current: {now}"));
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
}

#[tokio::test]
async fn a_revision_that_is_about_to_come_is_waited_for() {
    let server = filled(&["a"]).await;
    for object in ["", "/a"] {
        let next = server.store.revision().await.unwrap().next();
        let path = format!("{CONFIG_MAPS}{object}?resourceVersion={next}");
        let mut asked = Box::pin(server.get(&path));
        let early = futures::FutureExt::now_or_never(asked.as_mut());
        assert!(early.is_none(), "it isn't there yet");
        let written = config_map(&format!("n{next}"), json!({}));
        let (answer, _) = tokio::join!(asked, server.post(CONFIG_MAPS, &written));
        answer.ok();
    }
}

#[tokio::test]
async fn field_selectors_select() {
    let server = filled(&["a", "b", "b-2"]).await;
    for limit in ["", "&limit=1"] {
        let one = server.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Db{limit}")).await.ok();
        assert_eq!(names(&one), ["b"]);
        let rest = (one["metadata"].get("continue"), one["metadata"].get("remainingItemCount"));
        assert_eq!(rest, (None, None), "one that only begins alike is no next page");
    }
    server.delete(&format!("{CONFIG_MAPS}/b"), &json!({})).await.ok();
    let none = server.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Db")).await.ok();
    assert!(names(&none).is_empty());
    server.delete(&format!("{CONFIG_MAPS}/b-2"), &json!({})).await.ok();
    server.post(CONFIG_MAPS, &config_map("b", json!({}))).await.ok();
    let all = server.get("/api/v1/configmaps?fieldSelector=metadata.name%3Db,metadata.namespace%3Ddefault").await.ok();
    assert_eq!(names(&all), ["b"]);
    let others = server.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name!%3Db")).await.ok();
    assert_eq!(names(&others), ["a"]);
    let phase = server.get("/api/v1/namespaces?fieldSelector=status.phase%3DTerminating").await.ok();
    assert!(names(&phase).is_empty());
}

#[tokio::test]
async fn tables_carry_columns_cells_and_as_much_of_the_object_as_asked() {
    let server = filled(&["a"]).await;
    let table = server.get_as(TABLE, CONFIG_MAPS).await.ok();
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = server.get_as(TABLE, &format!("{CONFIG_MAPS}?includeObject=Object")).await.ok();
    assert_eq!(whole["rows"][0]["object"]["data"]["k"], "a");
    let none = server.get_as(TABLE, &format!("{CONFIG_MAPS}/a?includeObject=None")).await.ok();
    assert!(none["rows"][0].get("object").is_none());
    let beta = "application/json;as=Table;v=v1beta1;g=meta.k8s.io";
    assert_eq!(server.get_as(beta, CONFIG_MAPS).await.ok()["apiVersion"], "meta.k8s.io/v1beta1");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = server.get_as(partial, CONFIG_MAPS).await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0].get("data").is_none());
    server.get_as("image/png", CONFIG_MAPS).await.fails(406, "NotAcceptable");
}

#[tokio::test]
async fn big_answers_are_compressed_for_those_who_ask() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, &config_map("big", json!({"k": "x".repeat(200_000)}))).await.ok();
    let request = http::Request::get(CONFIG_MAPS).header("accept-encoding", "gzip");
    let answer = server.send(request.body(Default::default()).unwrap()).await;
    assert_eq!(answer.headers["content-encoding"], "gzip");
    assert!(answer.body.len() < 10_000);
    assert!(!server.get(CONFIG_MAPS).await.headers.contains_key("content-encoding"));
}
