//! Was granted one secret, to hand it to a command, and looks for ways to see it.

use hostile::*;

wit_bindgen::generate!({
    inline: "
        package farmhand:hostile;

        world fisher {
            import wasi:cli/environment@0.2.0;
        }

        package wasi:cli@0.2.0 {
            interface environment {
                get-environment: func() -> list<tuple<string, string>>;
                get-arguments: func() -> list<string>;
            }
        }
    ",
    world: "farmhand:hostile/fisher",
    generate_all,
});

fn secret() -> Content {
    Content::Secret("TOKEN".to_owned())
}

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        let mut seen = Vec::new();
        let env = vec![Variable { name: "TOKEN".to_owned(), value: secret() }];
        let printing = Command { env, stdin: vec![secret()], log_output: true, ..command(["env"]) };
        let output = guest.exec(&printing).map_err(fail)?;
        seen.extend([output.stdout, output.stderr]);
        // Piece by piece, cut anywhere.
        let process = guest.start(&printing).map_err(fail)?;
        let mut streamed = Vec::new();
        while let Ok(Event::Stdout(piece) | Event::Stderr(piece)) = process.next() {
            streamed.extend(piece);
        }
        seen.push(streamed);
        seen.push(guest.exec(&command(["ps"])).map_err(fail)?.stdout);
        guest.write_file("/srv/token", &[secret()], 0o600, false).map_err(fail)?;
        seen.push(guest.read_file("/srv/token", 1 << 20, false).map_err(fail)?);
        let reader = guest.open_file("/srv/token", false).map_err(fail)?;
        while let Some(piece) = reader.next().map_err(fail)? {
            seen.push(piece);
        }
        guest.save_file("token", "/srv/token", false).map_err(fail)?;
        // What would be farmhand's own.
        let variables = wasi::cli::environment::get_environment().into_iter();
        seen.extend(variables.map(|(name, value)| format!("{name}={value}").into_bytes()));
        seen.extend(wasi::cli::environment::get_arguments().into_iter().map(String::into_bytes));
        for other in ["OTHER", "", "TOKEN\0"] {
            let env = vec![Variable { name: "X".to_owned(), value: Content::Secret(other.to_owned()) }];
            if guest.exec(&Command { env, ..command(["env"]) }).is_ok() {
                seen.push(format!("secret {other:?} was given").into_bytes());
            }
        }
        for text in &seen {
            log::write(Level::Info, &String::from_utf8_lossy(text), &[]);
        }
        guest.save_artifact("seen", &seen.concat()).map_err(fail)?;
        done(String::from_utf8_lossy(&seen.concat()).replace('\n', " "))
    }
}

bad!(Module);
