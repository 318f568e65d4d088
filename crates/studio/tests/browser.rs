//! The page in a real browser, headless. Skipped, with the reason, where Debian's `chromium` and `chromium-driver` are not installed.
//!
//! `TALENT_SCREENSHOTS=DIR` writes pictures of the page to a folder.
#![allow(missing_docs, clippy::print_stdout)]

mod common;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{arguments, prediction_files, start};
use fantoccini::key::Key;
use fantoccini::wd::{TimeoutConfiguration, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};

/// A running `chromedriver`, ended when it is dropped.
struct Driver(Child, u16);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn driver() -> Option<Driver> {
    let is_there = |name: &str| {
        let mut command = Command::new(name);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    for name in ["chromium", "chromedriver"] {
        if !is_there(name) {
            println!("skipped: {name} is not installed (Debian: apt-get install chromium chromium-driver)");
            return None;
        }
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("chromedriver");
    command.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null());
    Some(Driver(command.spawn().unwrap(), port))
}

async fn browser(driver: &Driver, dark: bool) -> Client {
    let args = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--window-size=1400,1000",
        if dark {
            "--blink-settings=preferredColorScheme=0"
        } else {
            "--blink-settings=preferredColorScheme=1"
        },
    ];
    let options = json!({"args": args, "binary": "/usr/bin/chromium"});
    let capabilities = json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
    let Value::Object(capabilities) = capabilities else { unreachable!() };
    let started = Instant::now();
    loop {
        let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
        builder.capabilities(capabilities.clone());
        match builder.connect(&format!("http://127.0.0.1:{}", driver.1)).await {
            Ok(client) => {
                let waits = TimeoutConfiguration::new(None, None, Some(Duration::from_secs(20)));
                client.update_timeouts(waits).await.unwrap();
                return client;
            }
            Err(error) => assert!(started.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Chromedriver's own command: what the browser's console says.
#[derive(Debug)]
struct ConsoleLog;

impl WebDriverCompatibleCommand for ConsoleLog {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({"type": "browser"}).to_string()))
    }
}

/// Errors in the console: of scripts, of the content security policy, of what could not be loaded.
async fn console_errors(client: &Client) -> Vec<String> {
    let log = client.issue_cmd(ConsoleLog).await.unwrap();
    let entries = log.as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .filter(|entry| entry["level"] == "SEVERE")
        .map(|entry| entry["message"].to_string())
        .collect()
}

/// Waits until a script gives something that is not null, false or empty.
async fn wait_for(client: &Client, script: &str) -> Value {
    let started = Instant::now();
    loop {
        let found = client.execute(script, Vec::new()).await.unwrap();
        if !matches!(&found, Value::Null | Value::Bool(false)) && found != json!("") {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(15), "nothing for: {script}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn picture(client: &Client, name: &str) {
    if let Some(folder) = std::env::var_os("TALENT_SCREENSHOTS") {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let png = client.screenshot().await.unwrap();
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), png).unwrap();
    }
}

async fn address(client: &Client) -> String {
    client.current_url().await.unwrap().to_string()
}

const DROP: &str = r#"
const done = arguments[arguments.length - 1];
fetch("/api/image?image_id=" + arguments[0]).then((answer) => answer.blob()).then((blob) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([blob], "dropped.jpg", { type: "image/jpeg" }));
  document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  done(true);
});
"#;

async fn try_it(client: &Client, root: &str) {
    client.goto(root).await.unwrap();
    wait_for(client, "return document.querySelector('.drop') !== null").await;
    let image = client.execute_async("const done = arguments[0]; fetch('/api/rows?size=1').then((a) => a.json()).then((a) => done(a.rows[0].image_id))", vec![]);
    let image = image.await.unwrap();
    client.execute_async(DROP, vec![image]).await.unwrap();
    let text = client.find(Locator::Css("input[type=text]")).await.unwrap();
    // Long, right to left, and with markup that must stay text.
    text.send_keys("העיגול הימני <b onclick=alert(1)>the right one</b>").await.unwrap();
    text.send_keys(&char::from(Key::Enter).to_string()).await.unwrap();
    wait_for(client, "return document.querySelectorAll('article').length === 1").await;
    let title = client.find(Locator::Css("article h2")).await.unwrap().text().await.unwrap();
    assert!(title.contains("<b onclick=alert(1)>"), "{title}");
    let facts = "return document.querySelector('article .soft').textContent";
    assert!(wait_for(client, facts).await.as_str().unwrap().starts_with("50.0 %"));
    // The threshold acts at once, in the page.
    let slider = client.find(Locator::Css("article input[type=range]")).await.unwrap();
    slider.send_keys(&char::from(Key::End).to_string()).await.unwrap();
    assert_eq!(wait_for(client, facts).await, json!("Nothing exceeds this threshold."));
    slider.send_keys(&char::from(Key::Home).to_string()).await.unwrap();
    assert!(wait_for(client, facts).await.as_str().unwrap().starts_with("100.0 %"));
    let download = "return document.querySelector('article a[download]').href";
    assert!(wait_for(client, download).await.as_str().unwrap().contains("threshold=0"));
    // A second expression about the picture that is kept; both are in the address.
    text.clear().await.unwrap();
    text.send_keys("left").await.unwrap();
    text.send_keys(&char::from(Key::Enter).to_string()).await.unwrap();
    wait_for(client, "return document.querySelectorAll('article').length === 2").await;
    wait_for(client, "return /ids=\\d+%2C\\d+$/.test(location.hash)").await;
    client.find(Locator::XPath("//article//button[.='Why?']")).await.unwrap().click().await.unwrap();
    wait_for(client, "return document.querySelectorAll('.stages figure').length === 1").await;
    picture(client, "try").await;
    // The address leads back.
    client.refresh().await.unwrap();
    wait_for(client, "return document.querySelectorAll('article').length === 2").await;
}

async fn compare(client: &Client, root: &str) {
    client.goto(&format!("{root}#/compare?split=val&sort=gap&desc=true")).await.unwrap();
    client.refresh().await.unwrap();
    wait_for(client, "return document.querySelectorAll('tbody tr').length > 5").await;
    // A wide table scrolls in its own frame.
    let fits = "return innerWidth > 600 || document.documentElement.scrollWidth <= innerWidth";
    assert_eq!(client.execute(fits, vec![]).await.unwrap(), json!(true));
    picture(client, "compare").await;
    let total = "return document.querySelector('strong').textContent";
    let all = wait_for(client, total).await;
    client.execute("document.querySelector('details').open = true", vec![]).await.unwrap();
    let search = client.find(Locator::Css("input[type=search]")).await.unwrap();
    search.send_keys("circle").await.unwrap();
    wait_for(client, &format!("return document.querySelector('strong').textContent !== {all}")).await;
    let shared = address(client).await;
    assert!(shared.contains("text=circle") && shared.contains("sort=gap"), "{shared}");
    let filtered = wait_for(client, total).await;
    // A link that was sent shows the same.
    client.goto("about:blank").await.unwrap();
    client.goto(&shared).await.unwrap();
    wait_for(client, &format!("return document.querySelector('strong')?.textContent === {filtered}")).await;
    client.find(Locator::Css("tbody a")).await.unwrap().click().await.unwrap();
    wait_for(client, "return document.querySelectorAll('figure canvas').length === 3").await;
    picture(client, "case").await;
    let first = address(client).await;
    client
        .find(Locator::Css("body"))
        .await
        .unwrap()
        .send_keys(&char::from(Key::Right).to_string())
        .await
        .unwrap();
    wait_for(client, "return location.hash.includes('n=1&') || location.hash.includes('n=1')").await;
    assert_ne!(first, address(client).await);
    client.goto(&format!("{root}#/browse?targets=yes&split=val")).await.unwrap();
    wait_for(client, "return document.querySelectorAll('.card canvas').length > 5").await;
    picture(client, "browse").await;
}

/// From the page's start to a filter by the Tab key alone.
async fn keyboard(client: &Client, root: &str) {
    client.goto("about:blank").await.unwrap();
    client.goto(&format!("{root}#/browse")).await.unwrap();
    wait_for(client, "return document.querySelectorAll('a.card').length > 5").await;
    let press = async |key: Key| {
        let active = client.active_element().await.unwrap();
        active.send_keys(&char::from(key).to_string()).await.unwrap();
    };
    let mut reached = false;
    for _ in 0..12 {
        press(Key::Tab).await;
        let text = client.active_element().await.unwrap().text().await.unwrap();
        if text == "Compare" {
            reached = true;
            break;
        }
    }
    assert!(reached);
    press(Key::Enter).await;
    wait_for(client, "return document.querySelectorAll('tbody tr').length > 5").await;
    for _ in 0..12 {
        press(Key::Tab).await;
        if client.active_element().await.unwrap().attr("type").await.unwrap().as_deref() == Some("search") {
            client.active_element().await.unwrap().send_keys("square").await.unwrap();
            wait_for(client, "return location.hash.includes('text=square')").await;
            return;
        }
    }
    panic!("the Tab key does not lead to the search");
}

#[test]
fn people_can_use_the_page() {
    let Some(driver) = driver() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut args = arguments();
    args.predictions = prediction_files(folder.path());
    let server = start(&args);
    let root = server.address();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        for dark in [false, true] {
            let client = browser(&driver, dark).await;
            if dark {
                client.set_window_size(420, 900).await.unwrap();
                compare(&client, root).await;
                // Nothing is wider than a narrow window.
                let width = client.execute("return document.documentElement.scrollWidth", vec![]).await.unwrap();
                assert!(width.as_u64().unwrap() <= 500, "{width}");
            } else {
                try_it(&client, root).await;
                compare(&client, root).await;
                keyboard(&client, root).await;
            }
            let unnamed = "return [...document.querySelectorAll('img:not([alt]), input, select, canvas')].filter((one) => \
                           one.matches('img, canvas') ? !(one.hasAttribute('alt') || one.getAttribute('aria-label')) : \
                           !one.labels.length && !one.getAttribute('aria-label')).map((one) => one.outerHTML)";
            assert_eq!(client.execute(unnamed, vec![]).await.unwrap(), json!([]));
            let errors = console_errors(&client).await;
            assert!(errors.is_empty(), "{errors:?}");
            client.close().await.unwrap();
        }
    });
}
