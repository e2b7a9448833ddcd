//! The program `farmhand`: see `farmhand --help`, and the library of the same name.

use std::process::ExitCode;

use clap::Parser;
use farmhand::{
    cli::{Cli, WRONG_INPUT, askpass},
    module::compile_as_child,
};

fn main() -> ExitCode {
    // Paths that are broken at the terminal's edge can't be copied.
    let handler = |_: &_| Box::new(miette::MietteHandlerOpts::new().wrap_lines(false).build()) as Box<_>;
    // It can only be set already, which nobody else does.
    let _ = miette::set_hook(Box::new(handler));
    if let Some(compiled) = compile_as_child() {
        return compiled;
    }
    let result = match askpass() {
        Some(answered) => answered.map(|()| ExitCode::SUCCESS),
        None => run(),
    };
    result.unwrap_or_else(|report| {
        eprintln!("{report:?}");
        ExitCode::from(WRONG_INPUT)
    })
}

fn run() -> miette::Result<ExitCode> {
    use miette::IntoDiagnostic;
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // A phase module that loops gives way every millisecond; timers are to be looked at as often.
        .event_interval(1)
        .enable_all()
        .build()
        .into_diagnostic()?;
    runtime.block_on(cli.run())
}
