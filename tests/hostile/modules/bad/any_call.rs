//! Makes whatever calls its settings name, with whatever arguments: for tests that try very many.

use hostile::*;
use serde_json::Value;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn content(value: &Value) -> Content {
    // Not named `secret`: the host would see that the settings hand one over, and refuse before anything is called.
    match value["hidden"].as_str() {
        Some(name) => Content::Secret(name.to_owned()),
        None => Content::Bytes(text(value).into_bytes()),
    }
}

fn contents(value: &Value) -> Vec<Content> {
    value.as_array().into_iter().flatten().map(content).collect()
}

fn number(value: &Value) -> u32 {
    value.as_u64().unwrap_or_default() as u32
}

fn any_command(value: &Value) -> Command {
    let pair = |pair: &Value| Variable { name: text(&pair[0]), value: content(&pair[1]) };
    Command {
        argv: texts(&value["argv"]),
        env: value["env"].as_array().into_iter().flatten().map(pair).collect(),
        cwd: value["cwd"].as_str().map(str::to_owned),
        stdin: contents(&value["stdin"]),
        become_: value["become"] == true,
        timeout: value["timeout"].as_u64().map(|seconds| seconds as u32),
        log_output: value["log"] == true,
        read_only: value["read_only"] == true,
    }
}

fn make(call: &Value, guest: &Guest) -> Result<(), GuestError> {
    let r#become = call["become"] == true;
    let (path, name) = (text(&call["path"]), text(&call["name"]));
    match call["call"].as_str().unwrap_or_default() {
        "exec" => guest.exec(&any_command(call)).map(drop),
        "start" => {
            let process = guest.start(&any_command(call))?;
            for _ in 0..number(&call["events"]) {
                process.next()?;
            }
            Ok(())
        }
        "read" => guest.read_file(&path, number(&call["size"]), r#become).map(drop),
        "write" => guest.write_file(&path, &contents(&call["content"]), number(&call["mode"]), r#become),
        "open" => {
            let reader = guest.open_file(&path, r#become)?;
            for _ in 0..number(&call["events"]) {
                reader.next()?;
            }
            Ok(())
        }
        "create" => {
            let writer = guest.create_file(&path, number(&call["mode"]), r#become)?;
            for part in contents(&call["content"]) {
                // Also after an error.
                let _ = writer.write(&part);
            }
            if call["finish"] == true { FileWriter::finish(writer) } else { Ok(()) }
        }
        "artifact" => guest.save_artifact(&name, text(&call["content"]).as_bytes()),
        "file" => guest.save_file(&name, &path, r#become),
        "facts" => guest.facts().map(drop),
        "progress" => {
            log::progress(&name, call["percent"].as_u64().map(|percent| percent as u8));
            Ok(())
        }
        _ => {
            let fields = call["fields"].as_array().into_iter().flatten();
            let fields: Vec<_> =
                fields.map(|pair| log::Field { name: text(&pair[0]), value: text(&pair[1]) }).collect();
            log::write(Level::Error, &name, &fields);
            Ok(())
        }
    }
}

struct Module;

impl Bad for Module {
    fn run(context: Context, guest: &Guest) -> Result<Outcome, Failure> {
        let settings: Value = serde_json::from_str(&context.settings)
            .map_err(|error| Failure::InvalidSettings(error.to_string()))?;
        let mut failed = Vec::new();
        for call in settings["calls"].as_array().into_iter().flatten() {
            if let Err(error) = make(call, guest) {
                failed.push(format!("{error:?}"));
            }
        }
        log::write(Level::Warn, &failed.join("; "), &[]);
        done(format!("{} failed", failed.len()))
    }
}

bad!(Module);
