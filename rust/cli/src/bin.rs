//! The `jobserver` command. All its code is in the library, which `python -m jobserver` uses too.

fn main() {
    std::process::exit(jobserver_cli::main(std::env::args_os()));
}
