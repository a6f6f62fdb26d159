//! The one thread of this process on which all object stores' requests are made.

use std::future::Future;
use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use tokio::runtime::{Builder, Handle};

/// The thread's runtime, started when it is first wanted. It lives as long as the process.
pub(super) fn handle() -> io::Result<Handle> {
    static RUNTIME: OnceLock<Result<Handle, String>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| start().map_err(|error| error.to_string()));
    started.clone().map_err(|why| io::Error::other(format!("the object store's thread cannot be started: {why}")))
}

fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let forever = move || runtime.block_on(std::future::pending::<()>());
    thread::Builder::new().name("millstream-objects".into()).spawn(forever)?;
    Ok(handle)
}

/// Starts `work` on that thread; the answer is to be had from the receiver, by a thread that may wait.
pub(super) fn start_work<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> io::Result<Receiver<T>> {
    let (answer, receiver) = sync_channel(1);
    handle()?.spawn(async move {
        // Nobody may be left to hear it.
        let _ = answer.send(work.await);
    });
    Ok(receiver)
}

/// Waits for an answer on a thread that may wait.
pub(super) fn wait<T>(receiver: &Receiver<io::Result<T>>) -> io::Result<T> {
    receiver
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the object store's client panicked; its message is on stderr")))
}

/// Does `work` on that thread while this one waits.
pub(super) fn run<T: Send + 'static>(work: impl Future<Output = io::Result<T>> + Send + 'static) -> io::Result<T> {
    wait(&start_work(work)?)
}
