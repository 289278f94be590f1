//! A KMS service that embeds keystead and speaks the Huawei Cloud KMS API v1.0, so that the service's
//! official SDK works against it. `docs/backend.md` says how it is used and what it leaves out.
//!
//! `cargo run --release -p keystead-kms`

mod body;
mod caller;
mod config;
mod descriptors;
mod edge;
mod engine;
mod error;
mod first_keys;
mod metrics;
mod openapi;
mod random;
mod routes;
mod server;
mod signature;
mod state;
mod stream;
mod sweeper;
mod text;
mod wire;

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::engine::Place;
use crate::state::App;

/// The configuration that is made, if none is given.
const DEMO: &str = "keystead-kms.toml";

/// A KMS service on a keystead store.
#[derive(Debug, Parser)]
#[command(name = "keystead-kms")]
struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The configuration file; without it keystead-kms.toml, which is made, with a random secret, if it
    /// is not there
    #[arg(long)]
    config: Option<PathBuf>,
    /// How the log is written to standard error; RUST_LOG says how much
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Prints the OpenAPI description and ends
    #[arg(long)]
    print_openapi: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("keystead-kms: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    if arguments.print_openapi {
        io::stdout().write_all(openapi::text()?.as_bytes())?;
        return Ok(());
    }
    arguments.place.check()?;
    start_log(arguments.log_format);
    let path = match &arguments.config {
        Some(path) => path.clone(),
        None => demo(arguments.listen)?,
    };
    let config = Config::load(&path)?;
    let limits = config.limits;
    descriptors::make_room_for(limits.connections).map_err(|wrong| format!("{}: {wrong}", path.display()))?;
    let store = arguments.place.open(&state::store_options(&config), &config)?;
    let app = Arc::new(App::new(config, store)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(limits.store_reads + limits.store_writes)
        .enable_all()
        .build()?;
    runtime.block_on(serve(arguments, app))?;
    // Waits until calls of the store that have begun are done.
    drop(runtime);
    tracing::info!("stopped");
    Ok(())
}

/// The configuration of the demonstration, which is for this machine only.
fn demo(listen: SocketAddr) -> Result<PathBuf, Box<dyn std::error::Error>> {
    if !listen.ip().is_loopback() {
        return Err("without --config it listens on a loopback address only".into());
    }
    config::make_demo(Path::new(DEMO)).map_err(|error| format!("{DEMO}: {error}"))?;
    let path = Path::new(DEMO).canonicalize()?;
    println!("access key and secret key are in {}", path.display());
    Ok(path)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let log = log.with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().with_span_list(false).init(),
    }
}

async fn serve(arguments: &Arguments, app: Arc<App>) -> Result<(), Box<dyn std::error::Error>> {
    // Signals are caught from before the line that says that the service is there.
    let stop = stop_signal()?;
    let listener = TcpListener::bind(arguments.listen).await;
    let listener = listener.map_err(|error| format!("{}: {error}", arguments.listen))?;
    println!("listening on http://{}", listener.local_addr()?);
    io::stdout().flush()?;
    let sweeper = tokio::spawn(sweeper::run(Arc::clone(&app)));
    server::serve(listener, routes::router(Arc::clone(&app)), &app.limits, stop).await;
    sweeper.abort();
    Ok(())
}

#[cfg(unix)]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
