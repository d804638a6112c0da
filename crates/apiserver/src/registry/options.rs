//! The parameters of list and watch (meta.k8s.io ListOptions): reading them and refusing combinations without meaning.
//!
//! Not responsible for carrying them out.

use std::num::IntErrorKind;
use std::time::Duration;

use api::Resource;
use api::field::{self, Path};
use api::selector::{FieldSelector, FieldTerm, LabelSelector, SelectorError};
use api::status::Status;
use serde_json::Value;
use store::Revision;

use super::Answer;
use super::get::parse_revision;
use crate::http::query::Query;

/// No watch lasts longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// `resourceVersionMatch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    Exact,
    NotOlderThan,
    /// Refused wherever it comes, as sent.
    Unknown(String),
}

impl Match {
    fn parse(text: &str) -> Self {
        match text {
            "Exact" => Match::Exact,
            "NotOlderThan" => Match::NotOlderThan,
            other => Match::Unknown(other.to_owned()),
        }
    }

    fn text(&self) -> &str {
        match self {
            Match::Exact => "Exact",
            Match::NotOlderThan => "NotOlderThan",
            Match::Unknown(text) => text,
        }
    }
}

/// Which objects are meant.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

/// The parameters of a list or watch request.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub selection: Selection,
    pub limit: usize,
    pub token: Option<String>,
    /// As sent: `""` and `0` differ.
    pub resource_version: String,
    /// `resource_version` where it names one.
    pub revision: Option<Revision>,
    pub matching: Option<Match>,
    pub send_initial_events: Option<bool>,
    pub bookmarks: bool,
    pub timeout: Option<Duration>,
}

impl Selection {
    /// Everything is selected.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name that can be selected, if the selectors say it.
    pub fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// Narrows the selection to one name.
    pub fn select_name(&mut self, name: &str) {
        let term = FieldTerm { label: "metadata.name".to_owned(), value: name.to_owned(), equal: true };
        self.fields.terms.push(term);
    }

    pub fn matches(&self, resource: &Resource, object: &Value) -> bool {
        self.labels.matches(&object["metadata"]["labels"])
            && self.fields.matches(|label| match label {
                "metadata.name" => super::metadata::text(object, "name").to_owned(),
                "metadata.namespace" => super::metadata::text(object, "namespace").to_owned(),
                other => resource.strategy.field(object, other),
            })
    }

    fn parse(query: &Query, resource: &Resource) -> Answer<Self> {
        let bad = |error: SelectorError| Box::new(Status::bad_request(error.to_string()));
        let labels = query.text("labelSelector").map(LabelSelector::parse).transpose().map_err(bad)?;
        let fields = query.text("fieldSelector").map(FieldSelector::parse).transpose().map_err(bad)?;
        let selection = Selection { labels: labels.unwrap_or_default(), fields: fields.unwrap_or_default() };
        for term in &selection.fields.terms {
            let known = match term.label.as_str() {
                "metadata.name" => true,
                "metadata.namespace" => resource.namespaced(),
                other => resource.strategy.field_labels().contains(&other),
            };
            if !known {
                let why = if resource.strategy.field_labels().is_empty() {
                    let known = "only \"metadata.name\", \"metadata.namespace\"";
                    format!("{:?} is not a known field selector: {known}", term.label)
                } else {
                    format!("field label not supported: {}", term.label)
                };
                return Err(Box::new(Status::bad_request(why)));
            }
        }
        Ok(selection)
    }
}

impl ListOptions {
    pub fn parse(query: &Query, resource: &Resource, watch: bool) -> Answer<Self> {
        let number = |name: &str| query.text(name).map(integer).transpose();
        let resource_version = query.text("resourceVersion").unwrap_or_default().to_owned();
        let mut options = ListOptions {
            selection: Selection::parse(query, resource)?,
            // A negative limit is none, as upstream has it.
            limit: number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0),
            token: query.text("continue").map(str::to_owned),
            revision: query.text("resourceVersion").map(parse_revision).transpose()?.flatten(),
            resource_version,
            matching: query.text("resourceVersionMatch").map(Match::parse),
            send_initial_events: query.first("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            bookmarks: query.flag("allowWatchBookmarks"),
            // What is negative is over at once, as upstream has it; more than a year is a year.
            timeout: number("timeoutSeconds")?
                .filter(|seconds| *seconds != 0)
                .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LONGEST)),
        };
        // A watch from nowhere begins with what there is, and says when it has told it all (upstream's defaults).
        if watch
            && options.revision.is_none()
            && options.send_initial_events.is_none()
            && query.text("resourceVersionMatch").is_none()
        {
            options.send_initial_events = Some(true);
            options.matching = Some(Match::NotOlderThan);
        }
        let mistakes = if watch { options.watch_mistakes() } else { options.list_mistakes() };
        if mistakes.is_empty() {
            return Ok(options);
        }
        Err(Box::new(Status::invalid("meta.k8s.io", "ListOptions", "", &mistakes)))
    }

    fn list_mistakes(&self) -> Vec<field::Error> {
        let path = Path::new("resourceVersionMatch");
        let mut mistakes = Vec::new();
        if let Some(matching) = &self.matching {
            if self.resource_version.is_empty() {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                mistakes.push(field::Error::forbidden(&path, why));
            }
            if self.token.is_some() {
                let why = "resourceVersionMatch is forbidden when continue is provided";
                mistakes.push(field::Error::forbidden(&path, why));
            }
            if matches!(matching, Match::Unknown(_)) {
                let supported = &["Exact", "NotOlderThan", ""];
                mistakes.push(field::Error::not_supported(&path, matching.text(), supported));
            }
            if *matching == Match::Exact && self.resource_version == "0" {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                mistakes.push(field::Error::forbidden(&path, why));
            }
        }
        if self.send_initial_events.is_some() {
            let why = "sendInitialEvents is forbidden for list";
            mistakes.push(field::Error::forbidden(&Path::new("sendInitialEvents"), why));
        }
        mistakes
    }

    fn watch_mistakes(&self) -> Vec<field::Error> {
        let path = Path::new("resourceVersionMatch");
        let mut mistakes = Vec::new();
        if self.send_initial_events.is_some() {
            if self.matching != Some(Match::NotOlderThan) {
                let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                mistakes.push(field::Error::forbidden(&path, why));
            }
        } else if self.matching.is_some() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            mistakes.push(field::Error::forbidden(&path, why));
        }
        if let Some(matching) = &self.matching {
            if *matching != Match::NotOlderThan {
                mistakes.push(field::Error::not_supported(&path, matching.text(), &["NotOlderThan"]));
            }
            if self.token.is_some() {
                let why = "resourceVersionMatch is forbidden when continue is provided";
                mistakes.push(field::Error::forbidden(&path, why));
            }
        }
        mistakes
    }
}

/// A parameter that is an int64 upstream, refused in its words.
fn integer(text: &str) -> Answer<i64> {
    text.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Box::new(Status::bad_request(format!("strconv.ParseInt: parsing {}: {why}", field::quoted(text))))
    })
}
