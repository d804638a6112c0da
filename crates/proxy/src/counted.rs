//! A client whose requests are counted, as client-go counts them. A watch counts when it begins.

use std::time::Instant;

use kube::Client;
use kube::client::Body;

use crate::metrics::{Metrics, REST_DURATION, REST_REQUESTS};

/// What client-go calls the code of a request that got no answer.
const NO_ANSWER: &str = "<error>";

/// The same client, counting. `host` is whom it asks.
pub(crate) fn counted(client: &Client, host: &str, metrics: &Metrics) -> Client {
    let (inner, host, metrics) = (client.clone(), host.to_owned(), metrics.clone());
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (inner, host, metrics) = (inner.clone(), host.clone(), metrics.clone());
        async move {
            let (method, begun) = (request.method().to_string(), Instant::now());
            let answer = inner.send(request).await;
            let code =
                answer.as_ref().map_or_else(|_| NO_ANSWER.to_owned(), |answer| answer.status().as_str().to_owned());
            metrics.increment(&REST_REQUESTS, &[&code, &host, &method]);
            metrics.observe(&REST_DURATION, &[&host, &method], begun.elapsed());
            answer
        }
    });
    Client::new(service, client.default_namespace())
}
