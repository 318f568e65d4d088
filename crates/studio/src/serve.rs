//! Connections and their limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use cli_kit::{errln, outln};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::args::StudioArgs;
use crate::engine::{Engine, Predictor};
use crate::guard::Guard;
use crate::load::load;
use crate::routes;

/// Connections that are open at the same time; others wait in the system's queue.
const MAX_CONNECTIONS: usize = 512;
/// Longest wait for the head of a request, also between two requests of one connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection: a client that does not read its answer is gone after it.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);

/// What loads networks, in the thread that then makes predictions.
pub type LoadNetworks = Box<dyn FnOnce() -> Result<Box<dyn Predictor>> + Send>;

/// Serves the page until Ctrl-C.
///
/// - networks: `None` browses and compares alone
///
/// # Errors
/// When something that the arguments name cannot be opened, or the port is taken.
pub fn serve(args: &StudioArgs, networks: Option<LoadNetworks>) -> Result<()> {
    let server = Server::start(args, networks)?;
    if server.has_token {
        errln!(
            "other machines are served: whoever has this address can see the data and use the models; the connection is not encrypted"
        );
    }
    outln!("{}  (Ctrl-C ends)", server.address);
    if !args.no_open {
        open_browser(&server.address);
    }
    server.runtime.block_on(stop_signal())?;
    server.stop();
    cli_kit::finish_output()?;
    // Ends at once: a network that is predicting would use what libtorch's exit handlers take down.
    signal_hook::low_level::exit(0)
}

/// A server that answers. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    runtime: tokio::runtime::Runtime,
    address: String,
    port: u16,
    has_token: bool,
}

impl Server {
    /// Loads what the arguments name, then opens the port.
    ///
    /// # Errors
    /// As [`serve`].
    pub fn start(args: &StudioArgs, networks: Option<LoadNetworks>) -> Result<Self> {
        let engine = networks.map(Engine::start).transpose()?;
        let studio = Arc::new(load(args, engine)?);
        let measured = Arc::clone(&studio);
        std::thread::Builder::new().name("measures".into()).spawn(move || measured.measure())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let names = args.host.iter().map(|name| host_name(name)).collect::<Result<Vec<String>>>()?;
        let address: IpAddr = match names.is_empty() {
            true => Ipv4Addr::LOCALHOST.into(),
            // An address of version 6 is served on sockets that take both versions.
            false if names.iter().any(|name| name.starts_with('[')) => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        };
        let listener =
            runtime.block_on(TcpListener::bind(SocketAddr::from((address, args.port)))).with_context(
                || format!("--port {}: it cannot be opened; name another, or 0 for any", args.port),
            )?;
        let port = listener.local_addr()?.port();
        let guard = Arc::new(Guard::new(&names, port).context("/dev/urandom")?);
        let shown = names.first().map_or("127.0.0.1", String::as_str);
        let token = guard.token().map(|token| format!("?token={token}")).unwrap_or_default();
        let address = format!("http://{shown}:{port}/{token}");
        let has_token = guard.token().is_some();
        runtime.spawn(accept(listener, routes::router(studio, guard)));
        Ok(Self { runtime, address, port, has_token })
    }

    /// The address of the page, with the token that it needs, if any.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops at once. Requests that are being answered are not waited for.
    pub fn stop(self) {
        self.runtime.shutdown_background();
    }
}

/// A name of `--host` as it stands in an address bar: addresses of version 6 in brackets.
fn host_name(name: &str) -> Result<String> {
    if let Ok(address) = name.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
        return Ok(format!("[{address}]"));
    }
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
    ensure!(
        !name.is_empty() && name.chars().all(is_letter),
        "--host {name:?}: a name of this machine or an address, without http:// and without a port"
    );
    Ok(name.to_lowercase())
}

/// SIGINT or SIGTERM.
async fn stop_signal() -> Result<()> {
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => Ok(pressed?),
        _ = ended.recv() => Ok(()),
    }
}

async fn accept(listener: TcpListener, app: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of file descriptors, or a client that is gone already.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let app = app.clone();
        tokio::spawn(async move {
            // A client that breaks off is no error of this server.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, app)).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, app: Router) -> Result<(), hyper::Error> {
    let _ = stream.set_nodelay(true);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .await
}

/// Opens the page in the user's browser, if there is a way to.
fn open_browser(page: &str) {
    use std::process::{Command, Stdio};
    let programs = ["xdg-open", "open", "wslview"];
    let start = |program: &&str| {
        let mut command = Command::new(program);
        command.arg(page).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().is_ok()
    };
    let has_display =
        ["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"].iter().any(|name| std::env::var_os(name).is_some());
    if !has_display || !programs.iter().any(start) {
        errln!("no browser could be opened; open the address yourself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        let shown = ["Lab.example", "10.0.0.5", "fd00::1", "[fd00::1]"].map(|name| host_name(name).unwrap());
        assert_eq!(shown, ["lab.example", "10.0.0.5", "[fd00::1]", "[fd00::1]"]);
        for name in ["", "a b", "*", "http://foo", "foo:9000"] {
            assert!(host_name(name).is_err(), "{name}");
        }
    }
}
