//! Requests that mean harm, and too many of them.
#![allow(missing_docs)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{arguments, form, get, json_of, picture, raw, start};

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let server = start(&arguments());
    let port = server.port();
    let ask = |headers: &str| {
        raw(port, format!("GET /api/session HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes()).0
    };
    let own = format!("Host: localhost:{port}\r\n");
    assert_eq!(ask(&own), 200);
    assert_eq!(ask(&format!("{own}Origin: http://localhost:{port}\r\n")), 200);
    for headers in [
        "Host: evil.example\r\n".to_owned(),
        format!("Host: evil.example:{port}\r\n"),
        format!("{own}Origin: http://evil.example\r\n"),
        format!("{own}Origin: null\r\n"),
        format!("{own}{own}"),
        String::new(),
    ] {
        assert!((400..500).contains(&ask(&headers)), "{headers}");
    }
}

#[test]
fn other_machines_need_the_token() {
    let mut args = arguments();
    args.host = vec!["lab.example".into()];
    let server = start(&args);
    let port = server.port();
    let (_, token) = server.address().split_once("?token=").unwrap();
    let ask = |path: &str, headers: &str| {
        raw(
            port,
            format!("GET {path} HTTP/1.1\r\nHost: lab.example:{port}\r\n{headers}Connection: close\r\n\r\n")
                .as_bytes(),
        )
    };
    assert_eq!(ask("/", "").0, 401);
    assert_eq!(ask("/?token=0123", "").0, 401);
    assert_eq!(ask("/api/session", &format!("Cookie: talent_token_{port}=0123\r\n")).0, 401);
    // The token is not taken from other addresses than the page's.
    assert_eq!(ask(&format!("/api/session?token={token}"), "").0, 401);
    let moved = ask(&format!("/?token={token}"), "");
    let head = moved.1.to_lowercase();
    assert!(moved.0 == 200 && head.contains("httponly; samesite=strict"), "{head}");
    assert!(String::from_utf8_lossy(&moved.2).contains("url=/"));
    assert_eq!(ask("/api/session", &format!("Cookie: a=b; talent_token_{port}={token}\r\n")).0, 200);
    assert_eq!(ask("/health", "").0, 200);
}

#[test]
fn the_page_holds_nothing_from_elsewhere_and_runs_no_inline_script() {
    let server = start(&arguments());
    let (status, head, body) = get(server.port(), "/");
    let (head, body) = (head.to_lowercase(), String::from_utf8(body).unwrap());
    assert_eq!(status, 200);
    assert!(!body.contains("http://") && !body.contains("https://") && !body.contains("<script>"));
    let policy = head.lines().find(|line| line.starts_with("content-security-policy")).unwrap().to_owned();
    assert!(
        policy.contains("default-src 'none'")
            && policy.contains("script-src 'self'")
            && !policy.contains("unsafe")
    );
    assert!(
        head.contains("x-content-type-options: nosniff") && head.contains("referrer-policy: no-referrer")
    );
    for name in
        ["main.js", "common.js", "draw.js", "try.js", "why.js", "table.js", "case.js", "runs.js", "style.css"]
    {
        let text = String::from_utf8(get(server.port(), &format!("/assets/{name}")).2).unwrap();
        assert!(!text.contains("://") && !text.contains("innerHTML") && !text.contains("eval("), "{name}");
    }
}

/// A PNG of `side` x `side` pixels in a few kilobytes.
fn bomb(side: u32) -> Vec<u8> {
    use image::ImageEncoder;
    let mut out = Vec::new();
    let row = vec![0; (side * side) as usize];
    image::codecs::png::PngEncoder::new_with_quality(
        &mut out,
        image::codecs::png::CompressionType::Best,
        image::codecs::png::FilterType::NoFilter,
    )
    .write_image(&row, side, side, image::ExtendedColorType::L8)
    .unwrap();
    out
}

#[test]
fn large_uploads_and_bombs_are_refused() {
    let server = start(&arguments());
    let port = server.port();
    let bomb = bomb(9000);
    assert!(bomb.len() < 200_000);
    let answer = raw(port, &form(port, &[("image", &bomb), ("expression", b"x")]));
    assert!(
        answer.0 == 422 && json_of(&answer)["error"].as_str().unwrap().contains("megapixels"),
        "{}",
        answer.1
    );
    // The rest of the upload is not read.
    let large = vec![0; 26 << 20];
    let answer = raw(port, &form(port, &[("image", &large), ("expression", b"x")]));
    assert!(answer.0 == 413 || answer.0 == 0, "{}", answer.1);
    let head = format!("POST /api/predict HTTP/1.1\r\nHost: localhost:{port}\r\n");
    let endless = format!(
        "{head}Content-Type: multipart/form-data; boundary=X\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n"
    );
    assert!((400..500).contains(&raw(port, endless.as_bytes()).0));
    let long_head = format!("GET /{} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n", "a".repeat(200_000));
    assert!((400..500).contains(&raw(port, long_head.as_bytes()).0));
    assert_eq!(get(port, "/health").0, 200);
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

#[test]
fn a_thousand_requests_at_once_leave_it_answering() {
    let server = start(&arguments());
    let port = server.port();
    let file = std::fs::read(picture()).unwrap();
    let request = form(port, &[("image", &file), ("expression", b"left")]);
    assert_eq!(raw(port, &request).0, 200);
    let before = resident_mib();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = || raw(port, &request).0;
        let threads: Vec<_> = (0..1000).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count = |status: u16| statuses.iter().filter(|one| **one == status).count();
    assert!(
        count(200) > 0 && count(200) + count(503) == 1000,
        "{} answered, {} busy",
        count(200),
        count(503)
    );
    assert_eq!(raw(port, &request).0, 200);
    // Stacks of the thousand threads of this test are part of it.
    let growth = resident_mib() - before;
    assert!(growth < 400.0, "{growth} MiB");
}

#[test]
fn slow_clients_do_not_keep_others_waiting() {
    let server = start(&arguments());
    let port = server.port();
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"GET /api/session HTTP/1.1\r\nHost: localhost").unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    assert_eq!(get(port, "/api/session").0, 200);
    assert!(started.elapsed() < Duration::from_secs(5));
    // They are closed in the end.
    let mut last = &slow[99];
    last.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut rest = Vec::new();
    last.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&rest));
}
