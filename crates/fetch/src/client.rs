//! The HTTP client: https alone, redirects followed by its own rules, proxies and certificates from the usual variables.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::{HeaderMap, StatusCode};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};
use url::Url;

use crate::error::{Error, Result};
use crate::table::{is_allowed, is_loopback, is_sha256};

const MOST_REDIRECTS: usize = 10;
const CONNECT: Duration = Duration::from_secs(30);
/// A server that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Variable with a file of certificates to trust in place of the built-in ones, as for curl and OpenSSL.
const CERTIFICATES: &str = "SSL_CERT_FILE";

/// Why a source gave no file.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may work later; the server may have said when.
    Later(String, Option<Duration>),
    /// It will not work with this source.
    Never(String),
    /// The server wants a token, or another one.
    Gated(String),
}

/// A part of a file that is there already.
#[derive(Debug)]
pub(crate) struct Rest<'a> {
    /// Its length in bytes; the rest is asked for.
    pub(crate) from: u64,
    /// ETag or date of the file that it is part of. With another file now, the server sends it from the start.
    pub(crate) validator: Option<&'a str>,
}

/// What a server sends.
pub(crate) struct Answer {
    /// Position in the file of the first byte of `body`; 0 unless a rest was asked for and sent.
    pub(crate) from: u64,
    /// Size of the whole file, if the server said so.
    pub(crate) total: Option<u64>,
    /// ETag or date of the file.
    pub(crate) validator: Option<String>,
    /// SHA-256 of the file, if the server publishes it (Hugging Face).
    pub(crate) sha256: Option<String>,
    /// The bytes.
    pub(crate) body: Box<dyn Read>,
}

/// Asks servers for files.
pub(crate) struct Client(Agent);

impl Client {
    /// Reads the environment: proxies (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`), certificates (`SSL_CERT_FILE`).
    pub(crate) fn new() -> Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(Proxy::try_from_env())
            .user_agent(concat!("talent-fetch/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .tls_config(tls()?);
        let config: Config = config.build();
        Ok(Self(config.into()))
    }

    /// Asks for a file, or for the rest of it.
    ///
    /// - token: sent to the host of `url` alone, never to where it redirects
    pub(crate) fn get(
        &self,
        url: &Url,
        rest: Option<&Rest<'_>>,
        token: Option<&str>,
    ) -> std::result::Result<Answer, Trouble> {
        let (mut at, mut seen, mut sha256) = (url.clone(), BTreeSet::new(), None);
        for _ in 0..=MOST_REDIRECTS {
            if !seen.insert(at.clone()) {
                return Err(Trouble::Never("redirects in a circle".into()));
            }
            let token = token.filter(|_| at.origin() == url.origin());
            let response = self.ask(&at, rest, token)?;
            let (parts, body) = response.into_parts();
            sha256 = sha256.or_else(|| published_sha256(&parts.headers));
            if parts.status.is_redirection() {
                at = redirect(&at, &parts.headers)?;
                continue;
            }
            check_status(parts.status, &parts.headers, token.is_some())?;
            let body = body.into_with_config().limit(u64::MAX).reader();
            return answer(parts.status, &parts.headers, rest, sha256, Box::new(body));
        }
        Err(Trouble::Never(format!("redirects more than {MOST_REDIRECTS} times")))
    }

    fn ask(
        &self,
        url: &Url,
        rest: Option<&Rest<'_>>,
        token: Option<&str>,
    ) -> std::result::Result<ureq::http::Response<ureq::Body>, Trouble> {
        let mut request = self.0.get(url.as_str());
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(rest) = rest {
            request = request.header("Range", format!("bytes={}-", rest.from));
            if let Some(validator) = rest.validator {
                request = request.header("If-Range", validator);
            }
        }
        request.call().map_err(|error| match error {
            ureq::Error::HostNotFound => Trouble::Later("the host is not found".into(), None),
            // A certificate is as wrong the next time.
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) | ureq::Error::BadUri(_) => {
                Trouble::Never(error.to_string())
            }
            error => Trouble::Later(error.to_string(), None),
        })
    }
}

fn tls() -> Result<TlsConfig> {
    let builder = TlsConfig::builder();
    let Some(path) = std::env::var_os(CERTIFICATES).filter(|path| !path.is_empty()) else {
        return Ok(builder.build());
    };
    let path = std::path::PathBuf::from(path);
    let text = std::fs::read(&path).map_err(Error::at(&path))?;
    let certificates: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        let what = format!("{CERTIFICATES} names this file, but there is no certificate in it");
        return Err(Error::NotThisFile { path, what });
    }
    Ok(builder.root_certs(RootCerts::new_with_certs(&certificates)).build())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// Where a response redirects, if that is allowed: never from https to http.
fn redirect(from: &Url, headers: &HeaderMap) -> std::result::Result<Url, Trouble> {
    let never = |what: &str| Trouble::Never(what.to_owned());
    let location = text(headers, "location").ok_or_else(|| never("redirects to nowhere"))?;
    let to = from.join(location).map_err(|error| Trouble::Never(format!("redirects wrongly: {error}")))?;
    let stays_here = from.scheme() == "http" && is_loopback(&to);
    if !is_allowed(&to) || to.scheme() != "https" && !stays_here {
        return Err(Trouble::Never(format!("redirects to {}, which is not https", without_query(&to))));
    }
    Ok(to)
}

/// An address for messages: queries of redirects hold signatures.
fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    url.to_string()
}

fn check_status(
    status: StatusCode,
    headers: &HeaderMap,
    had_token: bool,
) -> std::result::Result<(), Trouble> {
    let said = format!("the server says {status}");
    match status.as_u16() {
        200 | 206 | 416 => Ok(()),
        401 | 403 if had_token => Err(Trouble::Gated(format!("{said} to the token in HF_TOKEN"))),
        401 | 403 => Err(Trouble::Gated(said)),
        408 | 425 | 429 | 500..=599 => Err(Trouble::Later(said, retry_after(headers))),
        _ => Err(Trouble::Never(said)),
    }
}

/// How long the server asks to wait: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, "retry-after")?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}

/// Hugging Face names the SHA-256 of a large file in the response that redirects to it.
fn published_sha256(headers: &HeaderMap) -> Option<String> {
    let hash = text(headers, "x-linked-etag")?.trim_matches('"').to_ascii_lowercase();
    is_sha256(&hash).then_some(hash)
}

fn answer(
    status: StatusCode,
    headers: &HeaderMap,
    rest: Option<&Rest<'_>>,
    sha256: Option<String>,
    body: Box<dyn Read>,
) -> std::result::Result<Answer, Trouble> {
    let length = text(headers, "content-length").and_then(|length| length.parse::<u64>().ok());
    // A weak ETag does not promise equal bytes.
    let etag = text(headers, "etag").filter(|etag| !etag.starts_with("W/"));
    let validator = etag.or_else(|| text(headers, "last-modified")).map(str::to_owned);
    let range = text(headers, "content-range").and_then(content_range);
    let whole = |total| Answer { from: 0, total, validator: validator.clone(), sha256: sha256.clone(), body };
    match (status.as_u16(), rest, range) {
        (200, ..) => Ok(whole(length)),
        (206, Some(rest), Some((Some(from), total))) if from == rest.from => {
            Ok(Answer { from, total: total.or(length.map(|length| from + length)), ..whole(None) })
        }
        // All is there already, and nothing is left to send.
        (416, Some(rest), Some((None, Some(total)))) if rest.from == total => Ok(Answer {
            from: total,
            total: Some(total),
            body: Box::new(std::io::empty()),
            validator,
            sha256,
        }),
        (416, Some(_), _) => Err(Trouble::Later("the server has another file now".into(), None)),
        _ => Err(Trouble::Never(format!("the server says {status}, which was not asked for"))),
    }
}

/// `bytes 5-9/10` is (5, 10), `bytes */10` is (none, 10), `bytes 5-9/*` is (5, none).
fn content_range(value: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    let from = if range == "*" { None } else { Some(range.split_once('-')?.0.parse().ok()?) };
    Some((from, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(content_range("bytes */10"), Some((None, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(content_range("lines 5-9/10"), None);
    }

    #[test]
    fn redirects_never_leave_https() {
        let to = |from: &str, location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("location", location.parse().unwrap());
            redirect(&Url::parse(from).unwrap(), &headers).map(|url| url.to_string()).ok()
        };
        let https = "https://example.org/a/b";
        assert_eq!(to(https, "../c").as_deref(), Some("https://example.org/c"));
        assert_eq!(to(https, "https://cdn.example.org/x").as_deref(), Some("https://cdn.example.org/x"));
        assert_eq!(to(https, "http://example.org/x"), None);
        assert_eq!(to(https, "http://localhost/x"), None);
        assert_eq!(to(https, "file:///etc/passwd"), None);
        assert_eq!(to("http://127.0.0.1:1/a", "/b").as_deref(), Some("http://127.0.0.1:1/b"));
        assert_eq!(to("http://127.0.0.1:1/a", "http://example.org/b"), None);
    }
}
