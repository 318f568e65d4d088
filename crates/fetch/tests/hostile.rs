//! Servers that cut connections, lie, redirect, and send something else: what is whole gets its name, nothing else does.

mod server;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fetch::{Error, Fetcher, LOCK_FILE, Patience, Places, State, Table};
use server::{Act, Server};

const QUICK: Patience =
    Patience { tries: 3, first_wait: Duration::from_millis(5), longest_wait: Duration::from_secs(3) };

/// A zip archive that holds these files.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in files {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// An archive of some size.
fn archive() -> Vec<u8> {
    let noise: Vec<u8> =
        (0..300_000_u32).map(|place| (place.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    zip(&[("set/instances.json", &noise), ("set/refs(unc).p", b"refs"), ("set/notes.txt", b"not wanted")])
}

struct Trial {
    folder: tempfile::TempDir,
    table: Table,
}

impl Trial {
    /// One item with one file.
    ///
    /// - more: further keys of the file
    fn new(to: &str, urls: &[String], more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = urls[0].split('/').take(3).collect::<Vec<_>>().join("/");
        let page = format!("{host}/accept");
        let text = format!(
            "[[item]]\nname = \"thing\"\nabout = \"\"\nlicence = \"free\"\nlicence_url = \"\"\n\
             gated = \"{page}\"\n[[item.file]]\nto = \"{to}\"\nurls = {urls:?}\n{more}\n"
        );
        let path = folder.path().join("sources.toml");
        std::fs::write(&path, text).unwrap();
        let table = Table::read(&path).unwrap();
        Self { folder, table }
    }

    fn places(&self) -> Places {
        Places { data_root: self.folder.path().join("data"), weights: self.folder.path().join("weights") }
    }

    fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.places(), QUICK, Some("secret".into())).unwrap()
    }

    fn fetch(&self) -> fetch::Result<()> {
        self.fetcher().fetch(&self.table.items[0], &self.table.items[0].files[0])
    }

    fn state(&self) -> State {
        self.fetcher().state(&self.table.items[0].files[0])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    /// Files in the data root, hidden ones too.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join("data"));
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A trial with one server for a zip archive that stays one.
fn one(acts: Vec<Act>, more: &str) -> (Server, Trial) {
    let server = Server::new(archive(), acts);
    let trial = Trial::new("data/a.zip", &[server.url("/a.zip")], more);
    (server, trial)
}

fn say(status: u16, headers: &str, text: String) -> Act {
    Act::Say(status, headers.to_owned(), text)
}

const CAP: &str = "at_most = 1_000_000";

fn fails(trial: &Trial, expected: &str) {
    let error = trial.fetch().unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(!error.contains("secret"), "{error}");
    assert!(!trial.path("a.zip").exists(), "{error}");
    assert!(!matches!(trial.state(), State::Published | State::Recorded | State::Unverified));
}

#[test]
fn cut_connections_are_resumed_where_they_broke() {
    let (server, trial) = one(vec![Act::Cut(100_000), Act::Cut(150_000), Act::Send], CAP);
    trial.fetch().unwrap();
    assert_eq!(std::fs::read(trial.path("a.zip")).unwrap(), archive());
    assert_eq!(server.header(1, "range").as_deref(), Some("bytes=100000-"));
    assert_eq!(server.header(1, "if-range").as_deref(), Some("\"v1\""));
    assert_eq!(server.header(2, "range").as_deref(), Some("bytes=250000-"));
    assert_eq!(trial.names(), ["a.zip", LOCK_FILE]);
    assert_eq!(trial.state(), State::Recorded);
}

#[test]
fn a_later_call_goes_on_with_what_an_earlier_one_left() {
    let (server, trial) = one(vec![Act::Cut(100_000), say(503, "", String::new())], CAP);
    fails(&trial, "503");
    assert_eq!(trial.state(), State::Part(100_000));
    let healthy = Server::new(archive(), vec![Act::Send]);
    let before = server.n_requests();
    // The same address answers now: the part is of the same file, as its ETag says.
    let text = std::fs::read_to_string(trial.path("a.zip.part.toml")).unwrap();
    std::fs::write(trial.path("a.zip.part.toml"), text.replace(&server.address, &healthy.address)).unwrap();
    let mut table = trial.table.clone();
    table.items[0].files[0].urls = vec![healthy.url("/a.zip")];
    trial.fetcher().fetch(&table.items[0], &table.items[0].files[0]).unwrap();
    assert_eq!(healthy.header(0, "range").as_deref(), Some("bytes=100000-"));
    assert_eq!(server.n_requests(), before);
    assert_eq!(std::fs::read(trial.path("a.zip")).unwrap(), archive());
}

#[test]
fn another_source_never_continues_a_part_of_unknown_bytes() {
    let broken = Server::new(archive(), vec![Act::Cut(100_000), say(404, "", String::new())]);
    let other = Server::new(archive(), vec![Act::Send]);
    let trial = Trial::new("data/a.zip", &[broken.url("/a"), other.url("/b")], CAP);
    trial.fetch().unwrap();
    assert_eq!(other.header(0, "range"), None);
    assert_eq!(std::fs::read(trial.path("a.zip")).unwrap(), archive());
}

#[test]
fn a_server_without_ranges_sends_the_whole_file_again() {
    let (server, trial) = one(vec![Act::Cut(100_000), Act::SendWhole], CAP);
    trial.fetch().unwrap();
    assert_eq!(std::fs::read(trial.path("a.zip")).unwrap(), archive());
    assert_eq!(server.n_requests(), 2);
}

#[test]
fn wrong_lengths_are_noticed() {
    fails(&one(vec![Act::Lie(10)], CAP).1, "the connection");
    fails(&one(vec![Act::NoLength(200_000)], CAP).1, "damaged");
    fails(&one(vec![Act::Send], "size = 300").1, "in place of 300");
    let (server, trial) = one(vec![Act::NoLength(200_000)], "size = 300_356");
    fails(&trial, "ended after 200000 of 300356 bytes");
    assert_eq!((trial.state(), server.n_requests()), (State::Part(200_000), 3));
    fails(&one(vec![Act::Send], "at_most = 1000").1, "more than the 1000 allowed");
    fails(&one(vec![Act::Endless], CAP).1, "more than the 1000000 bytes allowed");
    // An ordinary file without a length cannot be told from half of it; the archive's own list can.
    let (_server, trial) = one(vec![Act::NoLength(archive().len())], CAP);
    trial.fetch().unwrap();
    assert_eq!(std::fs::read(trial.path("a.zip")).unwrap(), archive());
}

#[test]
fn something_else_in_place_of_the_file_is_thrown_away() {
    let page = || "<!DOCTYPE html><title>Please log in</title>".to_owned();
    fails(&one(vec![say(200, "Content-Type: text/html\r\n", page())], CAP).1, "web page");
    fails(&one(vec![say(200, "", String::new())], CAP).1, "empty");
    fails(&one(vec![say(200, "", "404: Not Found".into())], CAP).1, "not a zip archive");
    fails(&one(vec![say(404, "", page())], CAP).1, "404");
    fails(&one(vec![say(410, "", page())], CAP).1, "410");
    fails(&one(vec![say(204, "", String::new())], CAP).1, "204");
    let hash = format!("{CAP}\nsha256 = \"{}\"", "0".repeat(64));
    fails(&one(vec![Act::Send], &hash).1, "in place of the published 0000");
}

#[test]
fn the_next_source_is_tried() {
    let dead = "http://127.0.0.1:9/a.zip".to_owned();
    let page = Server::new(archive(), vec![say(200, "", "<html>".into())]);
    let other = Server::new(archive(), vec![Act::SendOther]);
    let good = Server::new(archive(), vec![Act::Send]);
    let urls = [dead, page.url("/"), other.url("/"), good.url("/")];
    let trial = Trial::new("data/a.zip", &urls, CAP);
    trial.fetch().unwrap();
    assert_eq!(std::fs::read(trial.path("a.zip")).unwrap(), archive());
    let lock = std::fs::read_to_string(trial.path(LOCK_FILE)).unwrap();
    assert!(lock.contains(&good.address) && lock.contains("published = false"), "{lock}");
}

#[test]
fn a_server_that_is_busy_is_asked_again_when_it_says() {
    let (server, trial) = one(vec![say(429, "Retry-After: 1\r\n", String::new()), Act::Send], CAP);
    let started = Instant::now();
    trial.fetch().unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1) && server.n_requests() == 2);
    // Longer than anybody waits.
    let (server, trial) = one(vec![say(429, "Retry-After: 86400\r\n", String::new())], CAP);
    fails(&trial, "429");
    assert_eq!(server.n_requests(), 1);
    let date = "Retry-After: Fri, 31 Dec 2999 23:59:59 GMT\r\n";
    fails(&one(vec![say(503, date, String::new())], CAP).1, "503");
}

#[test]
fn redirects_are_followed_within_bounds() {
    let good = Server::new(archive(), vec![Act::Send]);
    let to = |place: &str| say(302, "", String::new()).with_location(place);
    let (_server, trial) = one(vec![to(&good.url("/a.zip"))], CAP);
    trial.fetch().unwrap();
    // The token is for the first host alone.
    assert_eq!(good.header(0, "authorization"), None);
    assert_eq!(_server.header(0, "authorization").as_deref(), Some("Bearer secret"));
    fails(&one(vec![to("http://example.org/a.zip")], CAP).1, "not https");
    fails(&one(vec![to("file:///etc/passwd")], CAP).1, "not https");
    fails(&one(vec![to("/a.zip")], CAP).1, "circle");
    fails(&one(vec![say(301, "", String::new())], CAP).1, "nowhere");
    let many: Vec<Act> = (0..20).map(|n| to(&format!("/{n}"))).collect();
    fails(&one(many, CAP).1, "more than 10 times");
}

#[test]
fn gated_files_say_where_to_accept_the_licence() {
    let (_server, trial) = one(vec![say(403, "", String::new())], CAP);
    let error = trial.fetch().unwrap_err();
    assert!(matches!(error, Error::Gated { .. }));
    let text = error.to_string();
    assert!(text.contains("/accept") && text.contains("HF_TOKEN"), "{text}");
    let mut without = Fetcher::new(trial.places(), QUICK, None).unwrap();
    let error = without.fetch(&trial.table.items[0], &trial.table.items[0].files[0]).unwrap_err().to_string();
    assert!(error.contains("HF_TOKEN is not set"), "{error}");
}

#[test]
fn the_first_download_is_required_from_then_on() {
    let (_server, trial) = one(vec![Act::Send, Act::SendOther, Act::Send], CAP);
    trial.fetch().unwrap();
    let source = &trial.table.items[0].files[0];
    trial.fetcher().verify(source).unwrap();
    let mut bytes = archive();
    bytes[1000] ^= 1;
    std::fs::write(trial.path("a.zip"), &bytes).unwrap();
    assert!(trial.fetcher().verify(source).unwrap_err().to_string().contains(LOCK_FILE));
    std::fs::remove_file(trial.path("a.zip")).unwrap();
    let changed = Server::new(bytes, vec![Act::Send]);
    let mut table = trial.table.clone();
    table.items[0].files[0].urls = vec![changed.url("/")];
    let error = trial.fetcher().fetch(&table.items[0], &table.items[0].files[0]).unwrap_err().to_string();
    assert!(error.contains("was downloaded before"), "{error}");
    assert!(!trial.path("a.zip").exists());
}

#[test]
fn hugging_face_names_the_checksum_of_a_file() {
    let (_server, trial) = one(vec![Act::Send], CAP);
    trial.fetch().unwrap();
    let hash = fetch::sha256(&trial.path("a.zip")).unwrap();
    let cdn = Server::new(archive(), vec![Act::Send]);
    for (hash, is_right) in [(hash, true), ("0".repeat(64), false)] {
        let headers = format!("X-Linked-ETag: \"{hash}\"\r\nLocation: {}\r\n", cdn.url("/x"));
        let hub = Server::new(vec![], vec![Act::Say(302, headers, String::new())]);
        let trial = Trial::new("data/a.zip", &[hub.url("/resolve/main/a.zip")], CAP);
        if is_right {
            trial.fetch().unwrap();
            assert_eq!(trial.state(), State::Published);
        } else {
            fails(&trial, "published 0000");
        }
    }
}

const UNPACK: &str = "at_most = 1_000_000\nunpack = [\"set/instances.json\", \"set/refs(unc).p\"]";

#[test]
fn archives_leave_their_wanted_files_and_nothing_else() {
    let (_server, trial) = one(vec![Act::Send], UNPACK);
    std::fs::create_dir_all(trial.path("set")).unwrap();
    std::fs::write(trial.path("set/refs(unc).p"), "mine").unwrap();
    assert!(trial.fetch().unwrap_err().to_string().contains("differs"));
    assert!(!trial.path("set/instances.json").exists() && trial.state() != State::Recorded);
    // The same file, and an empty one, are in nobody's way.
    std::fs::write(trial.path("set/refs(unc).p"), "refs").unwrap();
    std::fs::write(trial.path("set/instances.json"), "").unwrap();
    trial.fetch().unwrap();
    assert_eq!(trial.names(), [LOCK_FILE, "set"]);
    let mut inside: Vec<_> =
        std::fs::read_dir(trial.path("set")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    inside.sort();
    assert_eq!(inside, ["instances.json", "refs(unc).p"]);
    assert_eq!(std::fs::read(trial.path("set/refs(unc).p")).unwrap(), b"refs");
    assert_eq!(std::fs::read(trial.path("set/instances.json")).unwrap().len(), 300_000);
    assert_eq!(trial.state(), State::Recorded);
    trial.fetcher().verify(&trial.table.items[0].files[0]).unwrap();
}

#[test]
fn archives_that_are_damaged_or_leave_the_folder_are_refused() {
    let unpacked = |bytes: Vec<u8>, expected: &str| {
        let server = Server::new(bytes, vec![Act::Send]);
        let trial = Trial::new("data/a.zip", &[server.url("/a.zip")], UNPACK);
        fails(&trial, expected);
        assert!(trial.names().iter().all(|name| name.starts_with("a.zip.part")), "{:?}", trial.names());
        assert!(!trial.folder.path().join("evil").exists());
    };
    let refs: (&str, &[u8]) = ("set/refs(unc).p", b"refs");
    unpacked(zip(&[("set/instances.json", b"{}")]), "lacks `set/refs(unc).p`");
    unpacked(zip(&[("set/instances.json", b"{}"), refs, ("../evil", b"x")]), "would leave the folder");
    unpacked(zip(&[("set/instances.json", b"{}"), refs, ("/tmp/evil", b"x")]), "would leave the folder");
    let mut bytes = archive();
    bytes[2000] ^= 1;
    unpacked(bytes, "damaged");
    let mut bomb = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    bomb.start_file("set/instances.json", options).unwrap();
    bomb.write_all(&vec![0; 20_000_000]).unwrap();
    bomb.start_file("set/refs(unc).p", options).unwrap();
    bomb.write_all(b"refs").unwrap();
    unpacked(bomb.finish().unwrap().into_inner(), "would grow");
    let mut link = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    link.add_symlink("set/instances.json", "/etc/passwd", options).unwrap();
    link.start_file("set/refs(unc).p", options).unwrap();
    link.write_all(b"refs").unwrap();
    unpacked(link.finish().unwrap().into_inner(), "is not a file");
}

#[test]
fn two_processes_do_not_write_to_one_file() {
    let (_server, trial) = one(vec![Act::Stall(1000)], CAP);
    let waiting = trial.table.clone();
    let mut fetcher = trial.fetcher();
    std::thread::spawn(move || fetcher.fetch(&waiting.items[0], &waiting.items[0].files[0]));
    let until = Instant::now() + Duration::from_secs(10);
    while !trial.path("a.zip.part").exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(matches!(trial.fetch().unwrap_err(), Error::Busy { .. }));
}

#[test]
fn files_from_a_folder_are_checked_alike() {
    let (_server, trial) = one(vec![say(500, "", String::new())], UNPACK);
    let folder = trial.folder.path().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    let source = &trial.table.items[0].files[0];
    std::fs::write(folder.join("a.zip"), archive()).unwrap();
    assert!(!trial.fetcher().take(source, &folder.join("none"), true).unwrap());
    let take = |bytes: &[u8]| {
        std::fs::write(folder.join("a.zip"), bytes).unwrap();
        trial.fetcher().take(source, &folder, true)
    };
    assert!(!trial.fetcher().take(source, Path::new("/nowhere"), true).unwrap());
    assert!(take(b"<html>").unwrap_err().to_string().contains("web page"));
    assert!(take(&archive()[..200_000]).unwrap_err().to_string().contains("damaged"));
    assert!(take(&archive()).unwrap());
    assert!(folder.join("a.zip").exists());
    assert_eq!(trial.names(), [LOCK_FILE, "set"]);
}

#[test]
fn files_of_an_encoder_go_to_the_weights() {
    let config = Server::new(b"{\"model_type\": \"x\"}".to_vec(), vec![Act::Send]);
    let trial = Trial::new("weights/encoder/config.json", &[config.url("/config.json")], "at_most = 1000");
    trial.fetch().unwrap();
    assert!(trial.folder.path().join("weights/encoder/config.json").is_file());
    let lfs = Server::new(b"version https://git-lfs.github.com/spec/v1\n".to_vec(), vec![Act::Send]);
    let trial = Trial::new("weights/model.safetensors", &[lfs.url("/")], "at_most = 1000");
    assert!(trial.fetch().unwrap_err().to_string().contains("git-lfs"));
}

impl Act {
    fn with_location(self, place: &str) -> Self {
        match self {
            Self::Say(status, _, text) => Self::Say(status, format!("Location: {place}\r\n"), text),
            other => other,
        }
    }
}

/// A response as it stands, and then the connection ends.
fn raw(head: &str, body: &[u8]) -> Act {
    Act::Raw([format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes(), body].concat())
}

#[test]
fn the_rest_of_another_file_is_never_appended() {
    let file: Vec<u8> = [b"PK".as_slice(), &[7; 998]].concat();
    let begin = raw("200 OK\r\nETag: \"a\"\r\nContent-Length: 1000", &file[..500]);
    let others = [
        raw("206 P\r\nETag: \"b\"\r\nContent-Range: bytes 500-999/1000\r\nContent-Length: 500", &[9; 500]),
        raw("416 R\r\nETag: \"b\"\r\nContent-Range: bytes */500\r\nContent-Length: 0", &[]),
        raw("206 P\r\nETag: \"a\"\r\nContent-Range: bytes 500-599/600\r\nContent-Length: 100", &[9; 100]),
        raw("416 R\r\nContent-Range: bytes */300\r\nContent-Length: 0", &[]),
    ];
    let whole = raw("200 OK\r\nETag: \"b\"\r\nContent-Length: 1000", &file);
    for other in others {
        let server = Server::new(Vec::new(), vec![begin.clone(), other.clone(), whole.clone()]);
        let trial = Trial::new("data/a.bin", &[server.url("/a")], "at_most = 5000");
        trial.fetch().unwrap();
        assert_eq!(std::fs::read(trial.path("a.bin")).unwrap(), file, "{other:?}");
        assert_eq!(server.header(2, "range"), None);
    }
    let too_much =
        raw("206 P\r\nETag: \"a\"\r\nContent-Range: bytes 500-999/1000\r\nContent-Length: 600", &[9; 600]);
    let server = Server::new(Vec::new(), vec![begin, too_much]);
    let trial = Trial::new("data/a.zip", &[server.url("/a")], "at_most = 5000");
    fails(&trial, "not asked for");
}

#[test]
fn without_a_length_only_files_that_show_their_end_are_taken() {
    let trial = |name: &str, body: &[u8]| {
        let server = Server::new(Vec::new(), vec![raw("200 OK", body)]);
        let trial = Trial::new(&format!("data/{name}"), &[server.url("/a")], "at_most = 5000");
        let result = trial.fetch().map_err(|error| error.to_string());
        assert_eq!(result.is_ok(), trial.path(name).exists(), "{result:?}");
        result
    };
    assert!(trial("a.pth", b"\x80\x02 half of a pickle").unwrap_err().contains("does not say how long"));
    assert!(trial("a.json", b"{\"whole\": 1}").is_ok());
    assert!(trial("a.json", b"{\"half\": ").unwrap_err().contains("damaged"));
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let tensors = |n: usize| [&(header.len() as u64).to_le_bytes(), header.as_slice(), &[0; 4][..n]].concat();
    assert!(trial("a.safetensors", &tensors(4)).is_ok());
    assert!(trial("a.safetensors", &tensors(3)).unwrap_err().contains("in place of the"));
    let compressed = raw("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3", b"abc");
    let server = Server::new(Vec::new(), vec![compressed]);
    let trial = Trial::new("data/a.bin", &[server.url("/a")], "at_most = 5000");
    assert!(trial.fetch().unwrap_err().to_string().contains("compressed"));
}

#[test]
fn a_page_in_between_costs_nothing_of_what_is_there() {
    let (_server, trial) = one(vec![Act::Cut(100_000), say(200, "", "<html>please log in".into())], CAP);
    fails(&trial, "web page");
    assert_eq!(trial.state(), State::Part(100_000));
}

#[test]
fn a_server_that_never_gets_further_is_given_up() {
    let cuts = |n: usize| raw("200 OK\r\nContent-Length: 1000", &[7; 1000][..n]);
    let server =
        Server::new(Vec::new(), vec![cuts(500), cuts(400), cuts(500), cuts(400), cuts(500), cuts(400)]);
    let good = Server::new(vec![7; 1000], vec![Act::Send]);
    let trial = Trial::new("data/a.bin", &[server.url("/a"), good.url("/a")], "at_most = 5000");
    trial.fetch().unwrap();
    assert!(server.n_requests() <= 4 && good.n_requests() == 1);
}

#[test]
fn a_checksum_that_one_source_names_holds_for_the_others() {
    let other = Server::new(b"other".to_vec(), vec![Act::Send]);
    let named = format!("X-Linked-ETag: \"{}\"\r\nLocation: {}\r\n", "1".repeat(64), other.url("/x"));
    let hub = Server::new(Vec::new(), vec![say(302, &named, String::new())]);
    let trial = Trial::new("data/a.bin", &[hub.url("/a"), other.url("/a")], "at_most = 5000");
    assert!(trial.fetch().unwrap_err().to_string().matches("published 1111").count() == 2);
}

#[test]
fn another_source_follows_one_that_refuses() {
    let refusing = Server::new(Vec::new(), vec![say(401, "", String::new())]);
    let good = Server::new(b"whole".to_vec(), vec![Act::Send]);
    let trial = Trial::new("data/a.bin", &[refusing.url("/a"), good.url("/a")], "at_most = 5000");
    trial.fetch().unwrap();
    // The licence is accepted on the first host, so only that one has seen the token.
    assert!(refusing.header(0, "authorization").is_some() && good.header(0, "authorization").is_none());
}

#[test]
fn files_of_others_are_left_alone() {
    let (_server, trial) = one(vec![say(404, "", String::new())], CAP);
    let data = trial.folder.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let precious = trial.folder.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    std::os::unix::fs::symlink(&precious, data.join("a.zip.part")).unwrap();
    assert!(trial.fetch().is_err());
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    std::fs::remove_file(data.join("a.zip.part")).unwrap();
    std::fs::write(data.join("a.zip.part"), "of a browser").unwrap();
    assert!(trial.fetch().unwrap_err().to_string().contains("move it away"));
    assert_eq!(std::fs::read(data.join("a.zip.part")).unwrap(), b"of a browser");
    std::fs::remove_file(data.join("a.zip.part")).unwrap();
    std::fs::create_dir(data.join("a.zip")).unwrap();
    assert!(trial.fetch().unwrap_err().to_string().contains("a folder has the name"));
}

#[test]
fn what_is_known_of_a_file_outlives_an_answer_that_leaves_it_out() {
    let file = vec![7; 3000];
    let part = |from: usize, to: usize, more: &str| {
        let range = format!(
            "206 P\r\nContent-Range: bytes {from}-2999/3000\r\nContent-Length: {}{more}",
            3000 - from
        );
        raw(&range, &file[from..to])
    };
    let begin =
        raw("200 OK\r\nLast-Modified: Fri, 01 Jan 2021 00:00:00 GMT\r\nContent-Length: 3000", &file[..1000]);
    let acts = vec![begin, part(1000, 2000, ""), part(2000, 3000, "\r\nETag: \"x\"")];
    let server = Server::new(Vec::new(), acts);
    let trial = Trial::new("data/a.bin", &[server.url("/a")], "at_most = 5000");
    trial.fetch().unwrap();
    assert_eq!(std::fs::read(trial.path("a.bin")).unwrap(), file);
    assert_eq!(server.header(2, "range").as_deref(), Some("bytes=2000-"));
    assert!(server.header(2, "if-range").is_some());
}

#[test]
fn a_server_that_refuses_ranges_alone_is_asked_for_the_whole() {
    let (server, trial) = one(vec![Act::Cut(100_000), say(404, "", String::new()), Act::SendWhole], CAP);
    trial.fetch().unwrap();
    assert_eq!(std::fs::read(trial.path("a.zip")).unwrap(), archive());
    assert_eq!((server.n_requests(), server.header(2, "range")), (3, None));
}

#[test]
fn a_cut_within_the_first_bytes_is_a_broken_connection() {
    let (server, trial) = one(vec![Act::Cut(1), Act::Send], CAP);
    trial.fetch().unwrap();
    assert_eq!(server.n_requests(), 2);
}

#[test]
fn what_a_killed_process_left_is_recorded_and_tidied() {
    let (_server, trial) = one(vec![Act::Send], UNPACK);
    trial.fetch().unwrap();
    let source = &trial.table.items[0].files[0];
    std::fs::remove_file(trial.path(LOCK_FILE)).unwrap();
    std::fs::write(trial.path("a.zip.part"), archive()).unwrap();
    std::fs::write(trial.path("a.zip.part.toml"), format!("url = \"x\"\nbytes = {}\n", archive().len()))
        .unwrap();
    assert_eq!(trial.state(), State::Unverified);
    trial.fetcher().verify(source).unwrap();
    assert_eq!(
        (trial.state(), trial.names()),
        (State::Recorded, vec![LOCK_FILE.to_owned(), "set".to_owned()])
    );
    std::fs::write(trial.path("set/refs(unc).p"), "r").unwrap();
    assert_eq!(trial.state(), State::Damaged);
    assert!(trial.fetcher().verify(source).is_err());
}

#[test]
fn a_folder_on_another_disk_is_unpacked_into() {
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let (_server, trial) = one(vec![Act::Send], UNPACK);
    std::fs::create_dir_all(trial.folder.path().join("data")).unwrap();
    std::os::unix::fs::symlink(other.path(), trial.path("set")).unwrap();
    trial.fetch().unwrap();
    assert_eq!(std::fs::read(other.path().join("refs(unc).p")).unwrap(), b"refs");
}
