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
use crate::table::{is_allowed, is_loopback, is_sha256, shown};

const MOST_REDIRECTS: usize = 10;
const CONNECT: Duration = Duration::from_secs(30);
/// The host whose checksums are believed.
const HUB: &str = "huggingface.co";
/// A server that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Variable with a file of certificates to trust in place of the built-in ones, as for curl and OpenSSL.
const CERTIFICATES: &str = "SSL_CERT_FILE";

/// Why a source gave no file.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may work later; the server may have said when.
    Later(String, Option<Duration>),
    /// The host cannot be reached.
    Unreachable(String),
    /// It will not work with this source.
    Never(String),
    /// The server has another file than that of the part.
    Changed(String),
    /// The server wants a token, or another one.
    Gated(String),
}

/// A part of a file that is there already.
#[derive(Debug)]
pub(crate) struct Rest<'a> {
    /// Its length in bytes; the rest is asked for.
    pub(crate) from: u64,
    /// Size of the whole file, if the server said so before.
    pub(crate) total: Option<u64>,
    /// ETag or date of the file that it is part of. With another file now, the server sends it from the start.
    pub(crate) validator: Option<&'a str>,
}

/// What a server sends.
pub(crate) struct Answer {
    /// Position in the file of the first byte of `body`; 0 unless a rest was asked for and sent.
    pub(crate) from: u64,
    /// Size of the whole file, if the server said so.
    pub(crate) total: Option<u64>,
    /// Whether the end of the file can be told from a broken connection.
    pub(crate) has_end: bool,
    /// ETag or date of the file.
    pub(crate) validator: Option<String>,
    /// SHA-256 of the file, if Hugging Face has named it.
    pub(crate) sha256: Option<String>,
    /// The bytes.
    pub(crate) body: Box<dyn Read>,
}

/// Asks servers for files.
pub(crate) struct Client {
    agent: Agent,
    /// For this machine itself, never through a proxy.
    direct: Agent,
    /// Host of the proxy, if there is one.
    proxy: Option<String>,
}

impl Client {
    /// Reads the environment: proxies (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`), certificates (`SSL_CERT_FILE`).
    pub(crate) fn new() -> Result<Self> {
        let proxy = proxy()?;
        let name = proxy.as_ref().map(|proxy| format!("{}:{}", proxy.host(), proxy.port()));
        let tls = tls()?;
        let agent = |proxy: Option<Proxy>| -> Agent { config(proxy, tls.clone()).into() };
        Ok(Self { agent: agent(proxy), direct: agent(None), proxy: name })
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
            if at.host_str() == Some(HUB) || is_loopback(&at) {
                sha256 = sha256.or_else(|| published_sha256(&parts.headers));
            }
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

    /// Why nobody answered, and through what it was asked.
    fn no_way(&self, error: &dyn std::fmt::Display) -> String {
        match &self.proxy {
            Some(proxy) => format!("the host cannot be reached through the proxy {proxy}: {error}"),
            None => format!(
                "the host cannot be reached: {error}; is there a way to the internet, or is a proxy needed (HTTPS_PROXY)?"
            ),
        }
    }

    fn ask(
        &self,
        url: &Url,
        rest: Option<&Rest<'_>>,
        token: Option<&str>,
    ) -> std::result::Result<ureq::http::Response<ureq::Body>, Trouble> {
        let agent = if is_loopback(url) { &self.direct } else { &self.agent };
        let mut request = agent.get(url.as_str());
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
            ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_) => Trouble::Unreachable(self.no_way(&error)),
            // A certificate is as wrong the next time.
            ureq::Error::Io(cause) if cause.to_string().contains("certificate") => Trouble::Never(format!(
                "{cause}; if your network has an authority of its own, name its certificates with {CERTIFICATES}"
            )),
            ureq::Error::Io(cause) if is_no_way(cause.kind()) => Trouble::Unreachable(self.no_way(&cause)),
            ureq::Error::Io(cause) if cause.to_string().contains("lookup address") => {
                Trouble::Unreachable(self.no_way(&cause))
            }
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                Trouble::Unreachable(self.no_way(&error))
            }
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) | ureq::Error::BadUri(_) => {
                Trouble::Never(error.to_string())
            }
            error => Trouble::Later(error.to_string(), None),
        })
    }
}

fn config(proxy: Option<Proxy>, tls: TlsConfig) -> Config {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .user_agent(concat!("talent-fetch/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .tls_config(tls)
        .build()
}

/// The proxy of the usual variables. One that cannot be used is an error: a direct connection may be what the proxy is to prevent.
fn proxy() -> Result<Option<Proxy>> {
    for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
        for name in [name.to_owned(), name.to_lowercase()] {
            let value = std::env::var(&name).unwrap_or_default();
            if !value.is_empty() && Proxy::new(&value).is_err() {
                return Err(Error::Variable {
                    name,
                    what: "is no address of a proxy, such as http://host:3128".into(),
                });
            }
        }
    }
    Ok(Proxy::try_from_env())
}

/// Whether a connection could not be made at all.
fn is_no_way(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(kind, ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

fn tls() -> Result<TlsConfig> {
    let builder = TlsConfig::builder();
    let Some(path) = std::env::var_os(CERTIFICATES).filter(|path| !path.is_empty()) else {
        return Ok(builder.build());
    };
    let path = std::path::PathBuf::from(path);
    let text = std::fs::read(&path).map_err(|error| Error::Variable {
        name: CERTIFICATES.into(),
        what: format!("names {}: {error}", path.display()),
    })?;
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
        return Err(Trouble::Never(format!("redirects to {}, which is not https", shown(&to))));
    }
    Ok(to)
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
    if text(headers, "content-encoding").is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(Trouble::Never("the server sends the file compressed, which was not asked for".into()));
    }
    let length = text(headers, "content-length").and_then(|length| length.parse::<u64>().ok());
    // A weak ETag does not promise equal bytes.
    let etag = text(headers, "etag").filter(|etag| !etag.starts_with("W/"));
    let validator = etag.or_else(|| text(headers, "last-modified")).map(str::to_owned);
    let has_end = length.is_some() || text(headers, "transfer-encoding").is_some();
    let unasked = || Trouble::Never(format!("the server says {status}, which was not asked for"));
    let whole = Answer { from: 0, total: length, has_end, validator, sha256, body };
    match (status.as_u16(), rest) {
        (200, _) => Ok(whole),
        (206 | 416, Some(rest)) => {
            let range = text(headers, "content-range").and_then(content_range).ok_or_else(unasked)?;
            continued(status, range, length, rest, whole)
        }
        _ => Err(unasked()),
    }
}

/// The rest of a file, if it is a rest of the same file.
fn continued(
    status: StatusCode,
    (from, total): (Option<u64>, Option<u64>),
    length: Option<u64>,
    rest: &Rest<'_>,
    answer: Answer,
) -> std::result::Result<Answer, Trouble> {
    // An ETag is compared with an ETag, a date with a date.
    let is_etag = |text: &str| text.starts_with('"');
    let differs = |ours: Option<&str>, theirs: Option<&str>| matches!((ours, theirs), (Some(a), Some(b)) if is_etag(a) == is_etag(b) && a != b);
    let total = total.or_else(|| length.map(|length| rest.from + length));
    let is_other = differs(rest.validator, answer.validator.as_deref())
        || matches!((rest.total, total), (Some(before), Some(now)) if before != now);
    match (status.as_u16(), from, total) {
        _ if is_other => Err(Trouble::Changed("the server has another file now".into())),
        (206, Some(from), total) if from == rest.from => {
            if length.is_some_and(|length| total.is_some_and(|total| from + length != total)) {
                return Err(Trouble::Never("the server's lengths contradict each other".into()));
            }
            Ok(Answer { from, total, ..answer })
        }
        // All is there already, and nothing is left to send.
        (416, None, Some(total)) if rest.from == total && rest.total == Some(total) => Ok(Answer {
            from: total,
            total: Some(total),
            has_end: true,
            body: Box::new(std::io::empty()),
            ..answer
        }),
        (416, ..) => Err(Trouble::Changed("the server has another file now".into())),
        _ => Err(Trouble::Never("the server sends another part of the file than was asked for".into())),
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
