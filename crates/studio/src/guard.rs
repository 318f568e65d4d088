//! Who may ask, and what answers forbid the browser.
//!
//! A page of another site must not reach this server through the user's browser: requests need a Host that is this server's own
//! (against DNS rebinding) and, if they name an Origin, its own one (against cross-site requests). With `--host` they need a token,
//! too, which moves from the address into a cookie at the first visit.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, COOKIE, HOST, ORIGIN, REFERRER_POLICY,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::failure::Failure;

/// Bytes of the largest upload.
pub(crate) const MAX_UPLOAD: usize = 24 << 20;

/// Longest time in which a request is answered, its upload included.
const TIMEOUT: Duration = Duration::from_secs(60);

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
                      connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// Names of this server, and the token that visitors need.
#[derive(Debug)]
pub(crate) struct Guard {
    /// `NAME:PORT`, in lower case.
    hosts: Vec<String>,
    /// Name of the cookie with the token. It has the port, since browsers share cookies between the ports of a machine.
    cookie: String,
    token: Option<String>,
}

impl Guard {
    /// - names: of `--host`; without any, only this machine is served, and no token is needed
    pub(crate) fn new(names: &[String], port: u16) -> std::io::Result<Self> {
        let own = ["127.0.0.1", "localhost", "[::1]"].map(str::to_owned);
        let mut hosts = Vec::new();
        for name in own.iter().chain(names) {
            hosts.push(format!("{name}:{port}"));
            // A browser leaves out the port of the scheme.
            if port == 80 {
                hosts.push(name.clone());
            }
        }
        let token = match names.is_empty() {
            true => None,
            false => Some(random_token()?),
        };
        Ok(Self { hosts, cookie: format!("talent_token_{port}"), token })
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    fn check(&self, headers: &HeaderMap, path: &str) -> Result<(), Failure> {
        let text = |name: &HeaderName| {
            let mut values = headers.get_all(name).iter();
            let value = values.next().map(|value| value.to_str().unwrap_or("?").to_lowercase());
            // Two of them: programs may disagree on which counts.
            if values.next().is_some() { Some("?".to_owned()) } else { value }
        };
        let host = text(&HOST).unwrap_or_default();
        if !self.hosts.contains(&host) {
            return Err(Failure::new(
                StatusCode::MISDIRECTED_REQUEST,
                "this Host is not served; --host NAME admits the names of this machine",
            ));
        }
        let is_foreign = |origin: &String| *origin != format!("http://{host}");
        // Browsers say where a request comes from; a link to the page itself may stand anywhere.
        let from = text(&HeaderName::from_static("sec-fetch-site"));
        let is_cross = from.is_some_and(|from| from != "same-origin" && from != "none") && path != "/";
        if is_cross || text(&ORIGIN).as_ref().is_some_and(is_foreign) {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                "requests from pages of other sites are refused",
            ));
        }
        Ok(())
    }

    /// Whether a token is the right one, in a time that does not depend on where it differs.
    fn is_token(&self, given: &str) -> bool {
        self.token.as_ref().is_some_and(|token| token.as_bytes().ct_eq(given.as_bytes()).into())
    }
}

fn random_token() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let response = match answer(&guard, request, next).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    };
    with_headers(response)
}

async fn answer(guard: &Guard, request: Request, next: Next) -> Result<Response, Failure> {
    guard.check(request.headers(), request.uri().path())?;
    if guard.token.is_some() && request.uri().path() != "/health" {
        let query = request.uri().query().unwrap_or_default();
        let given = query.split('&').find_map(|pair| pair.strip_prefix("token="));
        if request.uri().path() == "/" && given.is_some_and(|given| guard.is_token(given)) {
            return moved_into_cookie(&guard.cookie, given.unwrap_or_default());
        }
        if !cookies(request.headers()).any(|(name, value)| name == guard.cookie && guard.is_token(value)) {
            return Err(Failure::new(
                StatusCode::UNAUTHORIZED,
                "open the address that the program printed, with its token",
            ));
        }
    }
    let announced =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > MAX_UPLOAD as u64) {
        let message = format!("uploads of more than {} MiB are refused", MAX_UPLOAD >> 20);
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => Ok(response),
        Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the request took longer than a minute")),
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|cookies| cookies.split(';')).filter_map(|cookie| cookie.trim().split_once('='))
}

/// Sets the cookie, and leads to the address without the token: by a page, since a redirect that began on a page of another site would
/// not carry the cookie.
fn moved_into_cookie(name: &str, token: &str) -> Result<Response, Failure> {
    let cookie = format!("{name}={token}; HttpOnly; SameSite=Strict; Path=/");
    let cookie = HeaderValue::from_str(&cookie).map_err(|_| Failure::bad("the token is malformed"))?;
    let page = "<!doctype html><title>talent studio</title><meta http-equiv=\"refresh\" content=\"0;url=/\">";
    Ok(([(SET_COOKIE, cookie)], Html(page)).into_response())
}

fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in [(CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, "no-store")] {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(HeaderName, &str)]) -> HeaderMap {
        of.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn only_own_names_and_origins_are_served() {
        let guard = Guard::new(&["lab.example".to_owned(), "[fd00::1]".to_owned()], 81).unwrap();
        for host in ["127.0.0.1:81", "LOCALHOST:81", "lab.example:81", "[fd00::1]:81"] {
            assert!(guard.check(&headers(&[(HOST, host)]), "/api").is_ok(), "{host}");
        }
        for host in ["evil.example:81", "127.0.0.1", "127.0.0.1:82", "lab.example.evil:81", ""] {
            assert!(guard.check(&headers(&[(HOST, host)]), "/api").is_err(), "{host}");
        }
        assert!(guard.check(&HeaderMap::new(), "/").is_err());
        let from = |origin: &str| guard.check(&headers(&[(HOST, "localhost:81"), (ORIGIN, origin)]), "/");
        assert!(from("http://localhost:81").is_ok());
        let site = |site: &str, path: &str| {
            let name = HeaderName::from_static("sec-fetch-site");
            guard.check(&headers(&[(HOST, "localhost:81"), (name, site)]), path).is_ok()
        };
        assert!(site("same-origin", "/api") && site("none", "/api") && site("cross-site", "/"));
        assert!(!site("cross-site", "/api") && !site("same-site", "/api"));
        for origin in ["null", "http://127.0.0.1:81", "https://localhost:81", "http://evil.example"] {
            assert!(from(origin).is_err(), "{origin}");
        }
    }

    #[test]
    fn tokens_are_long_and_differ() {
        let [one, other] = [0, 1].map(|_| Guard::new(&["x".to_owned()], 81).unwrap());
        let token = one.token().unwrap();
        assert!(token.len() == 32 && one.is_token(token) && !other.is_token(token) && !one.is_token(""));
        assert!(Guard::new(&[], 81).unwrap().token().is_none());
    }
}
