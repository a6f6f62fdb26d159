//! A real S3-compatible server for tests, and a road to it that can be closed.
//!
//! The server is moto_server, which `scripts/moto` installs; one is started for each test program and ends with it. Or
//! name one of your own in `MILLSTREAM_S3_ENDPOINT`, with credentials in `AWS_ACCESS_KEY_ID` and
//! `AWS_SECRET_ACCESS_KEY`, where the bucket `millstream-test` exists.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![allow(clippy::disallowed_methods, reason = "a test waits for another process by the clock")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

const BUCKET: &str = "millstream-test";
const READY_WITHIN: Duration = Duration::from_secs(120);

/// The server of this test program.
pub(crate) struct Server {
    /// `host:port`.
    authority: String,
    is_ours: bool,
    // Its shell ends the server when our end of its input closes, however this process ends.
    _shell: Option<Mutex<Child>>,
}

/// The server, started by the first test that asks.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = match std::env::var("MILLSTREAM_S3_ENDPOINT") {
            Ok(endpoint) => {
                let authority = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
                Server { authority, is_ours: false, _shell: None }
            }
            Err(_) => start(),
        };
        server.wait_until_ready();
        if server.is_ours {
            let (status, answer) = server.plain("PUT", &format!("/{BUCKET}"));
            assert_eq!(status, 200, "the bucket cannot be created: {answer}");
        }
        server
    })
}

fn start() -> Server {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/moto");
    let installed = Command::new(&script).output().unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(
        installed.status.success(),
        "these tests need an S3-compatible server, and moto_server could not be installed. Install python3 with its venv \
         module and give it a network, or start a server of your own and name it in MILLSTREAM_S3_ENDPOINT.\n{}",
        String::from_utf8_lossy(&installed.stderr)
    );
    let program = String::from_utf8(installed.stdout).unwrap().trim().to_owned();
    let port = free_port();
    let shell = Command::new("sh")
        .args(["-c", r#""$0" -H 127.0.0.1 -p "$1" >/dev/null 2>&1 & server=$!; read -r _; kill $server"#])
        .args([&program, &port.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    Server { authority: format!("127.0.0.1:{port}"), is_ours: true, _shell: Some(Mutex::new(shell)) }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    fn wait_until_ready(&self) {
        let began = Instant::now();
        while TcpStream::connect(&self.authority).is_err() {
            assert!(began.elapsed() < READY_WITHIN, "no S3 server answers at {}", self.authority);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// One request without a signature, which moto takes; its status and answer.
    pub(crate) fn plain(&self, method: &str, target: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.authority).unwrap();
        let host = &self.authority;
        write!(stream, "{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        (status, answer)
    }

    /// Settings of a store there.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        settings(&self.authority)
    }

    /// Multipart uploads that have begun and not ended, of objects whose names begin so.
    pub(crate) fn unfinished(&self, place: &str) -> usize {
        let prefix = place.strip_prefix(&format!("s3://{BUCKET}/")).unwrap();
        let (_, answer) = self.plain("GET", &format!("/{BUCKET}?uploads"));
        answer.matches(&format!("<Key>{prefix}")).count()
    }
}

fn settings(authority: &str) -> Vec<(String, String)> {
    let from = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    [
        ("AWS_ENDPOINT", format!("http://{authority}")),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_REGION", from("AWS_REGION", "us-east-1")),
        ("AWS_ACCESS_KEY_ID", from("AWS_ACCESS_KEY_ID", "test")),
        ("AWS_SECRET_ACCESS_KEY", from("AWS_SECRET_ACCESS_KEY", "test")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// A place that no other test has.
pub(crate) fn place() -> String {
    static PLACES: AtomicU64 = AtomicU64::new(0);
    format!("s3://{BUCKET}/{}-{}/checkpoints", std::process::id(), PLACES.fetch_add(1, Ordering::Relaxed))
}

/// A road to the server, which can be closed: connections on it end, and new ones are refused.
pub(crate) struct Road {
    at: SocketAddr,
    state: Arc<RoadState>,
}

struct RoadState {
    to: String,
    open: AtomicBool,
    ended: AtomicBool,
    /// Lose the answer to the next request that has this in its first line.
    lose: Mutex<Option<&'static str>>,
    connections: Mutex<Vec<TcpStream>>,
}

impl Road {
    pub(crate) fn to(server: &Server) -> Road {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let state = Arc::new(RoadState {
            to: server.authority.clone(),
            open: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            lose: Mutex::default(),
            connections: Mutex::default(),
        });
        let serve = state.clone();
        thread::spawn(move || serve.listen(listener, at));
        Road { at, state }
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        settings(&self.at.to_string())
    }

    pub(crate) fn close(&self) {
        self.state.open.store(false, Ordering::SeqCst);
        self.state.cut();
        // The listener is closed by its own thread; until a connection is refused, it is not.
        while TcpStream::connect(self.at).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
        self.state.cut();
    }

    pub(crate) fn open(&self) {
        self.state.open.store(true, Ordering::SeqCst);
        while TcpStream::connect(self.at).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next request whose first line contains `words` reaches the server, and its answer does not come back.
    pub(crate) fn lose_answer_to(&self, words: &'static str) {
        *self.state.lose.lock().unwrap() = Some(words);
    }

    /// Whether an answer that was to be lost has been.
    pub(crate) fn has_lost(&self) -> bool {
        self.state.lose.lock().unwrap().is_none()
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.state.cut();
    }
}

impl RoadState {
    fn listen(self: Arc<RoadState>, listener: TcpListener, at: SocketAddr) {
        let mut listener = Some(listener);
        while !self.ended.load(Ordering::SeqCst) {
            if !self.open.load(Ordering::SeqCst) {
                listener = None;
            } else if listener.is_none() {
                listener = TcpListener::bind(at).ok();
            }
            let accepted = listener.as_ref().and_then(|listener| {
                listener.set_nonblocking(true).unwrap();
                listener.accept().ok()
            });
            let Some((near, _)) = accepted else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            near.set_nonblocking(false).unwrap();
            let Ok(far) = TcpStream::connect(&self.to) else { continue };
            self.connections.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
            let losing = Arc::new(AtomicBool::new(false));
            let (out, back) = (self.clone(), self.clone());
            let ((near_2, far_2), losing_2) = ((near.try_clone().unwrap(), far.try_clone().unwrap()), losing.clone());
            thread::spawn(move || out.carry_requests(near, far, &losing));
            thread::spawn(move || back.carry_answers(far_2, near_2, &losing_2));
        }
    }

    fn carry_requests(&self, mut from: TcpStream, mut to: TcpStream, losing: &AtomicBool) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            let first_line = bytes[..read].split(|byte| *byte == b'\r').next().unwrap_or_default();
            let mut lose = self.lose.lock().unwrap();
            if lose.is_some_and(|words| String::from_utf8_lossy(first_line).contains(words)) {
                *lose = None;
                losing.store(true, Ordering::SeqCst);
            }
            drop(lose);
            if to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    fn carry_answers(&self, mut from: TcpStream, mut to: TcpStream, losing: &AtomicBool) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            // The answer has come, so the server has done what it was asked.
            if losing.load(Ordering::SeqCst) || to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            let _: io::Result<()> = connection.shutdown(Shutdown::Both);
        }
    }
}
