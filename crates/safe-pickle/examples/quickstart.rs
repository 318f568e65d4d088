//! Writes and reads a pickle, then refuses a malicious one. `cargo run --release --package safe-pickle --example quickstart`
#![allow(clippy::print_stdout, missing_docs)]

use safe_pickle::{Writer, parse};

fn main() -> Result<(), safe_pickle::Error> {
    let mut writer = Writer::new();
    writer.list(|refs| {
        for ref_id in 1..=2 {
            refs.dict(|one| {
                one.key("ref_id").int(ref_id).key("sent").text("second zebra from the right");
            });
        }
    });
    let pickle = writer.finish();
    let document = parse(&pickle)?;
    for entry in document.root().items().into_iter().flatten() {
        let id = entry.get("ref_id").and_then(|value| value.as_i64());
        let text = entry.get("sent").and_then(|value| value.as_str());
        println!("safe-pickle: {} bytes hold ref {id:?}: {text:?}", pickle.len());
    }
    // A pickle that calls `os.system("echo gotcha")`: Python would run it; here it is refused, with the function's name.
    let malicious = b"cos\nsystem\n(S'echo gotcha'\ntR.";
    match parse(malicious) {
        Ok(_) => println!("this is not printed"),
        Err(error) => println!("safe-pickle: refused: {error}"),
    }
    Ok(())
}
