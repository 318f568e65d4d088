//! `fetch` as people type it, in a process of its own: https, killed in the middle, dry runs, lists.

#[path = "../../fetch/tests/server/mod.rs"]
mod server;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use server::{Act, Server};

const TLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fetch/tests/tls");

/// A server that speaks https, with a certificate of the test authority for localhost.
fn secure(file: &[u8], acts: Vec<Act>) -> Server {
    let certificate = CertificateDer::from_pem_file(format!("{TLS}/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{TLS}/server.key")).unwrap();
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let config = Arc::new(config.unwrap());
    Server::with(file.to_vec(), acts, move |stream| {
        let session = rustls::ServerConnection::new(config.clone()).unwrap();
        Box::new(rustls::StreamOwned::new(session, stream))
    })
}

/// `fetch` in a folder whose table of sources is `sources.toml`.
fn fetch(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_talent-data"));
    command.current_dir(folder).arg("fetch").args(args).env("SSL_CERT_FILE", format!("{TLS}/ca.pem"));
    command.env_remove("HF_TOKEN");
    for proxy in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy"] {
        command.env_remove(proxy);
    }
    command
}

fn run(mut command: Command) -> (bool, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

fn table(folder: &Path, url: &str, more: &str) {
    let text = format!(
        "[[item]]\nname = \"thing\"\nabout = \"a thing\"\nlicence = \"free for all\"\nlicence_url = \"https://example.org/l\"\n\
         {more}\n[[item.file]]\nto = \"data/a.bin\"\nat_most = 10_000_000\nurls = [\"{url}\"]\n"
    );
    std::fs::write(folder.join("sources.toml"), text).unwrap();
}

const ARGS: [&str; 3] = ["thing", "--sources", "sources.toml"];

#[test]
fn https_with_an_own_authority_and_never_back_to_http() {
    let folder = tempfile::tempdir().unwrap();
    let server = secure(b"whole", vec![Act::Send]);
    let url = format!("https://{}/a.bin", server.address.replace("127.0.0.1", "localhost"));
    table(folder.path(), &url, "");
    let (is_well, said) = run(fetch(folder.path(), &ARGS));
    assert!(is_well, "{said}");
    assert!(said.contains("free for all") && said.contains("unverified"), "{said}");
    assert_eq!(std::fs::read(folder.path().join("datasets/a.bin")).unwrap(), b"whole");

    // Without the authority nobody is believed.
    std::fs::remove_dir_all(folder.path().join("datasets")).unwrap();
    let mut alone = fetch(folder.path(), &ARGS);
    alone.env_remove("SSL_CERT_FILE");
    let (is_well, said) = run(alone);
    assert!(!is_well && said.contains("SSL_CERT_FILE"), "{said}");

    let plain = Server::new(b"whole".to_vec(), vec![Act::Send]);
    let location = format!("Location: {}\r\n", plain.url("/a.bin"));
    let server = secure(b"", vec![Act::Say(302, location, String::new())]);
    table(
        folder.path(),
        &format!("https://localhost:{}/a.bin", server.address.split_once(':').unwrap().1),
        "",
    );
    let (is_well, said) = run(fetch(folder.path(), &ARGS));
    assert!(!is_well && said.contains("not https") && plain.n_requests() == 0, "{said}");
}

#[test]
fn a_killed_download_goes_on_and_is_never_taken_for_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file: Vec<u8> = (0..3_000_000_u32).map(|place| (place >> 3) as u8).collect();
    let server = Server::new(file.clone(), vec![Act::Stall(2_000_000), Act::Send]);
    table(folder.path(), &server.url("/a.bin"), "");
    let mut child = fetch(folder.path(), &ARGS).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let part = folder.path().join("datasets/a.bin.part");
    let until = Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(&part).map_or(0, |part| part.len()) < 2_000_000 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(100));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path().join("datasets/a.bin").exists());
    let (_, said) = run(fetch(folder.path(), &["list", "--sources", "sources.toml"]));
    assert!(said.contains("2 MB downloaded"), "{said}");
    let (is_well, said) = run(fetch(folder.path(), &ARGS));
    assert!(is_well, "{said}");
    assert_eq!(std::fs::read(folder.path().join("datasets/a.bin")).unwrap(), file);
    let (is_well, said) = run(fetch(folder.path(), &ARGS));
    assert!(is_well && said.contains("is there already") && server.n_requests() == 2, "{said}");
}

#[test]
fn the_token_is_sent_to_gated_items_and_never_printed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(b"whole".to_vec(), vec![Act::Say(401, String::new(), "who?".into()), Act::Send]);
    table(folder.path(), &server.url("/a.bin"), &format!("gated = \"{}\"", server.url("/accept")));
    let call = || {
        let mut command = fetch(folder.path(), &ARGS);
        command.env("HF_TOKEN", "hf_secret");
        run(command)
    };
    let (is_well, said) = call();
    assert!(!is_well && said.contains("/accept") && !said.contains("hf_secret"), "{said}");
    assert_eq!(server.header(0, "authorization").as_deref(), Some("Bearer hf_secret"));
    let (is_well, said) = call();
    assert!(is_well && !said.contains("hf_secret"), "{said}");
    let written = std::fs::read_to_string(folder.path().join("datasets/fetch-lock.toml")).unwrap();
    assert!(!written.contains("hf_secret"));
}

#[test]
fn a_proxy_of_the_usual_variables_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Server::new(Vec::new(), vec![Act::Say(403, String::new(), String::new())]);
    table(folder.path(), "https://example.org/a.bin", "");
    let mut command = fetch(folder.path(), &ARGS);
    command.env("HTTPS_PROXY", proxy.url(""));
    let (is_well, said) = run(command);
    assert!(!is_well, "{said}");
    let requests = proxy.requests.lock().unwrap();
    assert!(requests[0][0].starts_with("CONNECT example.org"), "{requests:?}");
}

#[test]
fn dry_runs_and_lists_download_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (is_well, said) = run(fetch(folder.path(), &["--for", "refcoco/base", "--dry-run"]));
    assert!(is_well, "{said}");
    for expected in [
        "train2014.zip (13.5 GB, 13510573713 bytes) becomes datasets/images/train2014.zip",
        "datasets/refcoco/instances.json",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth",
        "Licence: MIT (OpenAI)",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("dinov2_vitb14_pretrain.pth"), "{said}");
    let (is_well, said) = run(fetch(folder.path(), &["list"]));
    assert!(is_well && said.contains("coco-train2014") && said.contains("13.5 GB"), "{said}");
    let (is_well, said) = run(fetch(folder.path(), &["refcocoo"]));
    assert!(!is_well && said.contains("did you mean `refcoco`"), "{said}");
    let (is_well, said) = run(fetch(folder.path(), &["clip-vit-b16", "--from", "."]));
    assert!(!is_well && said.contains("lacks ViT-B-16.pt"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // Unpacked photos serve as well as the archive.
    let photos = folder.path().join("datasets/images/train2014");
    std::fs::create_dir_all(&photos).unwrap();
    std::fs::write(photos.join("COCO_train2014_000000000009.jpg"), "photo").unwrap();
    let (is_well, said) = run(fetch(folder.path(), &["coco-train2014"]));
    assert!(is_well && said.contains("is there already, at another place"), "{said}");
}
