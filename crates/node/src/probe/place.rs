//! Where an HTTP request goes, and where a redirect leads from there (RFC 3986, section 5). Pure.

use super::request::authority;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub tls: bool,
    /// Without brackets.
    pub host: String,
    pub port: u16,
    /// With the query.
    pub path: String,
}

impl Place {
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }

    /// Where `location` leads.
    pub fn redirected(&self, location: &str) -> Result<Self, String> {
        let location = location.split('#').next().unwrap_or("");
        if location.starts_with("//") {
            let scheme = if self.tls { "https:" } else { "http:" };
            return absolute(&format!("{scheme}{location}"));
        }
        let scheme = location.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| is_scheme(scheme));
        if scheme.is_some() {
            return absolute(location);
        }
        let (own, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let (path, query) = location.find('?').map_or((location, ""), |at| location.split_at(at));
        let path = match path {
            "" => own.to_owned(),
            path if path.starts_with('/') => without_dots(path),
            path => without_dots(&format!("{}/{path}", own.rsplit_once('/').map_or("", |(above, _)| above))),
        };
        let same = location.is_empty();
        Ok(Place { path: if same { self.path.clone() } else { format!("{path}{query}") }, ..self.clone() })
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn absolute(location: &str) -> Result<Place, String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to parse Location header {location:?}: {error}");
    let uri: http::Uri = location.parse().map_err(|error| failed(&error))?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        scheme => return Err(format!("unsupported protocol scheme {:?}", scheme.unwrap_or(""))),
    };
    let host = uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Place { tls, host, port, path })
}

fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            ".." => drop(kept.pop()),
            "." => {}
            part => {
                kept.push(part);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_leads_from_where_it_was_found() {
        let here = Place { tls: false, host: "::1".into(), port: 8080, path: "/a/b?x=1".into() };
        let table = [
            ("/c", "http://[::1]:8080/c"),
            ("/c/../d?y=2#part", "http://[::1]:8080/d?y=2"),
            ("c", "http://[::1]:8080/a/c"),
            ("./..", "http://[::1]:8080/"),
            ("../../../c/", "http://[::1]:8080/c/"),
            ("?z=3", "http://[::1]:8080/a/b?z=3"),
            ("", "http://[::1]:8080/a/b?x=1"),
            ("//other/c", "http://other:80/c"),
            ("https://other", "https://other:443/"),
            ("http://[::1]:9/?q", "http://[::1]:9/?q"),
            ("HTTP://Other:81/x", "http://Other:81/x"),
        ];
        for (location, expected) in table {
            assert_eq!(here.redirected(location).map(|place| place.url()).as_deref(), Ok(expected), "{location}");
        }
        for bad in ["ftp://x/", "http://", "http://a b/", "mailto:x"] {
            assert!(here.redirected(bad).is_err(), "{bad}");
        }
    }
}
