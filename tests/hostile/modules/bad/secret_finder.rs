//! Was granted no secret, and comes upon one that another step left in the guest.

use hostile::*;

struct Module;

impl Bad for Module {
    fn run(_: Context, guest: &Guest) -> Result<Outcome, Failure> {
        let printing = Command { log_output: true, ..command(["left"]) };
        let mut seen = guest.exec(&printing).map_err(fail)?.stdout;
        guest.write_file("/srv/left", &[Content::Bytes(seen.clone())], 0o600, false).map_err(fail)?;
        guest.save_file("left", "/srv/left", false).map_err(fail)?;
        // As a command may have written it on purpose.
        let torn = String::from_utf8_lossy(&guest.exec(&command(["torn"])).map_err(fail)?.stdout)
            .replace("\x1b[m", "");
        seen.extend(torn.as_bytes());
        let seen = String::from_utf8_lossy(&seen).replace('\n', " ");
        log::write(Level::Info, &seen, &[]);
        log::progress(&seen, None);
        guest.save_artifact("seen", seen.as_bytes()).map_err(fail)?;
        let value = Content::Secret("TOKEN".to_owned());
        let env = vec![Variable { name: "T".to_owned(), value }];
        match guest.exec(&Command { env, ..command(["env"]) }) {
            Err(GuestError::Denied(_)) => Err(Failure::CommandFailed(format!("it was {seen}"))),
            other => done(format!("not denied: {other:?}")),
        }
    }
}

bad!(Module);
