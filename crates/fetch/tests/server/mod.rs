//! A server for tests, which behaves as badly as it is told to.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the server does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Sends the file, or the rest that is asked for.
    Send,
    /// Sends the file whatever is asked for, without an ETag.
    SendWhole,
    /// Announces the file, but ends after so many bytes of it.
    Cut(usize),
    /// Sends other bytes of the same length.
    SendOther,
    /// Sends the file without saying how long it is, and ends after so many bytes.
    NoLength(usize),
    /// Announces so many bytes more than it sends.
    Lie(usize),
    /// Sends bytes without an end.
    Endless,
    /// Sends a text with a status and further headers.
    Say(u16, String, String),
    /// Sends these bytes, and nothing else.
    Raw(Vec<u8>),
    /// Sends slowly: so many bytes, then it waits for ever.
    Stall(usize),
}

/// A request: its first line and headers, in lower case.
pub(crate) type Request = Vec<String>;

pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves a file under every path; the acts are done in turn, the last one for ever.
    pub(crate) fn new(file: Vec<u8>, acts: Vec<Act>) -> Self {
        Self::with(file, acts, |stream| Box::new(stream))
    }

    /// The same over connections of another kind, such as TLS.
    pub(crate) fn with(
        file: Vec<u8>,
        acts: Vec<Act>,
        wrap: impl Fn(TcpStream) -> Box<dyn Connection> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, file, acts) =
            (requests.clone(), Arc::new(file), Arc::new(Mutex::new(VecDeque::from(acts))));
        let wrap = Arc::new(wrap);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, file, acts, wrap) = (seen.clone(), file.clone(), acts.clone(), wrap.clone());
                std::thread::spawn(move || {
                    let _ = serve(wrap(stream), &file, &acts, &seen);
                });
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn n_requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// A header of a request.
    pub(crate) fn header(&self, request: usize, name: &str) -> Option<String> {
        let requests = self.requests.lock().unwrap();
        let start = format!("{name}: ");
        requests[request].iter().find_map(|line| line.strip_prefix(&start).map(str::to_owned))
    }
}

pub(crate) trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

fn serve(
    connection: Box<dyn Connection>,
    file: &[u8],
    acts: &Mutex<VecDeque<Act>>,
    seen: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    let mut request = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let line = line.trim();
        request.push(match line.split_once(": ") {
            Some((name, value)) => format!("{}: {value}", name.to_lowercase()),
            None => line.to_owned(),
        });
    }
    let range = request.iter().find_map(|line| line.strip_prefix("range: bytes=")).map(str::to_owned);
    let if_range = request.iter().find_map(|line| line.strip_prefix("if-range: ")).map(str::to_owned);
    seen.lock().unwrap().push(request);
    let act = {
        let mut acts = acts.lock().unwrap();
        if acts.len() > 1 { acts.pop_front().unwrap() } else { acts[0].clone() }
    };
    let out = reader.get_mut();
    let etag = "\"v1\"";
    let from = range
        .filter(|_| if_range.is_none_or(|validator| validator == etag))
        .map_or(0, |range| range.trim_end_matches('-').parse::<usize>().unwrap());
    let head = |length: usize| {
        if from > 0 {
            let total = file.len();
            format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}\r\nETag: {etag}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
                total - 1
            )
        } else {
            format!(
                "HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            )
        }
    };
    let rest = &file[from.min(file.len())..];
    match act {
        Act::Send => write!(out, "{}", head(rest.len())).and_then(|()| out.write_all(rest))?,
        Act::SendWhole => {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.len())?;
            out.write_all(file)?;
        }
        Act::Cut(n) => {
            write!(out, "{}", head(rest.len())).and_then(|()| out.write_all(&rest[..n.min(rest.len())]))?
        }
        Act::SendOther => {
            let other: Vec<u8> =
                file.iter().enumerate().map(|(place, byte)| if place < 8 { *byte } else { !byte }).collect();
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", other.len())?;
            out.write_all(&other)?;
        }
        Act::NoLength(n) => {
            write!(out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            out.write_all(&file[..n])?;
        }
        Act::Lie(more) => write!(out, "{}", head(rest.len() + more)).and_then(|()| out.write_all(rest))?,
        Act::Endless => {
            write!(out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            out.write_all(file)?;
            while out.write_all(&[0; 1024]).is_ok() {}
        }
        Act::Say(status, headers, text) => {
            write!(
                out,
                "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            )?;
        }
        Act::Raw(bytes) => out.write_all(&bytes)?,
        Act::Stall(n) => {
            write!(out, "{}", head(rest.len())).and_then(|()| out.write_all(&rest[..n.min(rest.len())]))?;
            out.flush()?;
            std::thread::sleep(std::time::Duration::from_secs(600));
        }
    }
    out.flush()
}
