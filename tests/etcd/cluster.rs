//! A real etcd cluster of three members on loopback, for tests: started here, and ended by their process ids.
//!
//! Members talk to each other through a proxy of each, so that one can be cut off from the others while it still
//! runs and answers its clients.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part, and some are within the crate")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests, outside of the test functions"
)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const MEMBERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

/// Three members, or as many as are asked for. They end when this is dropped.
pub struct Cluster {
    folder: tempfile::TempDir,
    members: Vec<Member>,
    network: Network,
    arguments: Vec<String>,
    secured: Option<Secured>,
}

/// Files for a cluster whose members are called by TLS: the authority's certificate, and certificate and private key
/// of the members, which etcdctl uses too.
#[derive(Debug, Clone)]
pub struct Secured {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub private_key: PathBuf,
}

struct Member {
    child: Option<Child>,
    client_port: u16,
    peer_port: u16,
    paused: bool,
}

impl Cluster {
    /// Starts a cluster and waits until each member answers.
    pub fn start() -> Self {
        Self::with(&["--max-txn-ops=512"])
    }

    /// With these arguments for each member besides.
    pub fn with(arguments: &[&str]) -> Self {
        Self::of(MEMBERS, arguments, None)
    }

    /// So many members, with these arguments for each, and these files if they are called by TLS.
    pub fn of(count: usize, arguments: &[&str], secured: Option<Secured>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let network = Network::new(count);
        let members = (0..count).map(|_| Member {
            child: None,
            client_port: free_port(),
            peer_port: free_port(),
            paused: false,
        });
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut cluster = Self { folder, members: members.collect(), network, arguments, secured };
        for member in 0..count {
            cluster.network.serve(member, cluster.members[member].peer_port);
        }
        (0..count).for_each(|member| cluster.launch(member));
        cluster.wait_until_healthy();
        cluster
    }

    /// Where each member answers clients.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|member| self.endpoint(member)).collect()
    }

    pub fn endpoint(&self, member: usize) -> String {
        let scheme = if self.secured.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.members[member].client_port)
    }

    fn launch(&mut self, member: usize) {
        let peers: Vec<_> = (0..self.members.len())
            .map(|peer| format!("n{peer}=http://127.0.0.1:{}", self.network.port(peer)))
            .collect();
        let client = self.endpoint(member);
        let data = self.folder.path().join(format!("n{member}"));
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(data.with_extension("log")).unwrap();
        let child = Command::new("etcd")
            .arg(format!("--name=n{member}"))
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{}", self.members[member].peer_port))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{}", self.network.port(member)))
            .arg(format!("--initial-cluster={}", peers.join(",")))
            .args(["--initial-cluster-token=kms", "--initial-cluster-state=new", "--log-level=error"])
            .args(["--quota-backend-bytes=2147483648"])
            .args(self.secured.iter().flat_map(Secured::of_member))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let child = child.expect("etcd can be started: install Debian's etcd-server and etcd-client");
        self.members[member].child = Some(child);
    }

    /// Waits until every member that runs answers.
    pub fn wait_until_healthy(&self) {
        let since = Instant::now();
        for member in 0..self.members.len() {
            if self.members[member].child.is_none() || self.members[member].paused {
                continue;
            }
            while !self
                .control(member, &["endpoint", "health"])
                .is_some_and(|said| said.contains("true") || said.contains("healthy"))
            {
                assert!(since.elapsed() < PATIENCE, "member {member} does not answer: {}", self.log(member));
                thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// What a member wrote to its log.
    pub fn log(&self, member: usize) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("n{member}.log"))).unwrap_or_default()
    }

    /// Runs etcdctl at one member; `None` if it fails.
    pub fn control(&self, member: usize, arguments: &[&str]) -> Option<String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoint(member)))
            .args(["--dial-timeout=1s", "--command-timeout=3s"])
            .args(self.secured.iter().flat_map(Secured::of_client))
            .args(arguments)
            .output()
            .expect("etcdctl can be started: install Debian's etcd-client");
        let said = [output.stdout, output.stderr].concat();
        output.status.success().then(|| String::from_utf8_lossy(&said).into_owned())
    }

    /// Which member leads, as one of the others that can be asked sees it.
    pub fn leader(&self) -> Option<usize> {
        let mut ids = HashMap::new();
        let mut leader = None;
        for member in 0..self.members.len() {
            let runs = self.members[member].child.is_some() && !self.members[member].paused;
            let Some(said) =
                runs.then(|| self.control(member, &["endpoint", "status", "--write-out=json"])).flatten()
            else {
                continue;
            };
            let said: serde_json::Value = serde_json::from_str(said.lines().next()?).ok()?;
            let status = &said[0]["Status"];
            ids.insert(status["header"]["member_id"].as_u64()?, member);
            leader = status["leader"].as_u64().filter(|leader| *leader > 0).or(leader);
        }
        ids.get(&leader?).copied()
    }

    /// Kills a member at once (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self, member: usize) {
        self.resume(member);
        if let Some(mut child) = self.members[member].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts a member again that was killed.
    pub fn restart(&mut self, member: usize) {
        assert!(self.members[member].child.is_none(), "it runs");
        self.launch(member);
    }

    /// Stops a member where it is (SIGSTOP).
    pub fn pause(&mut self, member: usize) {
        self.signal(member, "-STOP");
        self.members[member].paused = true;
    }

    /// Lets a member go on that was paused.
    pub fn resume(&mut self, member: usize) {
        if self.members[member].paused {
            self.signal(member, "-CONT");
            self.members[member].paused = false;
        }
    }

    fn signal(&self, member: usize, signal: &str) {
        let id = self.members[member].child.as_ref().expect("it runs").id();
        assert!(Command::new("kill").args([signal, &id.to_string()]).status().unwrap().success());
    }

    /// Cuts a member off from the others; it goes on to answer its clients.
    pub fn cut_off(&self, member: usize) {
        let id = self.member_id(member);
        self.network.cut(member, id);
    }

    /// Ends all cuts.
    pub fn heal(&self) {
        self.network.heal();
    }

    fn member_id(&self, member: usize) -> String {
        let name = format!("n{member}");
        let asked = (0..self.members.len()).find_map(|other| self.control(other, &["member", "list"]));
        let list = asked.expect("some member answers");
        let line = list.lines().find(|line| line.split(", ").nth(2) == Some(name.as_str()));
        line.and_then(|line| line.split(", ").next()).expect("the member is in the list").to_owned()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data_folder(&self, member: usize) -> PathBuf {
        self.folder.path().join(format!("n{member}"))
    }
}

impl Secured {
    fn of_member(&self) -> [String; 2] {
        let Self { certificate, private_key, .. } = self;
        [format!("--cert-file={}", certificate.display()), format!("--key-file={}", private_key.display())]
    }

    fn of_client(&self) -> [String; 3] {
        let Self { authority, certificate, private_key } = self;
        [
            format!("--cacert={}", authority.display()),
            format!("--cert={}", certificate.display()),
            format!("--key={}", private_key.display()),
        ]
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // It may have ended by itself, which is what is wanted.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// A port that nobody listens at.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The proxies between members.
struct Network {
    listeners: Vec<TcpListener>,
    state: Arc<Mutex<Cuts>>,
}

#[derive(Default)]
struct Cuts {
    /// Members that are cut off, with their ids as etcd writes them.
    members: HashMap<usize, String>,
    /// What is open, with the member that it leads to and the id of the one that it is from.
    open: Vec<(usize, String, [TcpStream; 2])>,
}

impl Cuts {
    fn is_cut(&self, to: usize, from: &str) -> bool {
        self.members.contains_key(&to) || self.members.values().any(|id| id == from)
    }
}

impl Network {
    fn new(count: usize) -> Self {
        let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        Self { listeners, state: Arc::default() }
    }

    fn port(&self, member: usize) -> u16 {
        self.listeners[member].local_addr().unwrap().port()
    }

    /// Passes on what comes for a member. The thread ends with the process.
    fn serve(&self, member: usize, to: u16) {
        let (listener, state) = (self.listeners[member].try_clone().unwrap(), self.state.clone());
        thread::spawn(move || {
            for connection in listener.incoming() {
                let Ok(connection) = connection else { return };
                let state = state.clone();
                thread::spawn(move || pass_on(connection, member, to, &state));
            }
        });
    }

    fn cut(&self, member: usize, id: String) {
        let mut state = self.state.lock().unwrap();
        state.members.insert(member, id);
        let open = std::mem::take(&mut state.open);
        for (to, from, streams) in open {
            if state.is_cut(to, &from) {
                streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
            } else {
                state.open.push((to, from, streams));
            }
        }
    }

    fn heal(&self) {
        self.state.lock().unwrap().members.clear();
    }
}

/// Reads who a connection is from, and passes it on unless one of the two is cut off. Members say who they are in a
/// header of each request, and use a connection for themselves alone.
fn pass_on(mut connection: TcpStream, member: usize, to: u16, state: &Mutex<Cuts>) {
    let mut head = Vec::new();
    let mut some = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match connection.read(&mut some) {
            Ok(read) if read > 0 && head.len() < 1 << 16 => head.extend(&some[..read]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head);
    let from =
        text.lines().find_map(|line| line.strip_prefix("X-Server-From: ")).unwrap_or_default().to_owned();
    let Ok(mut member_side) = TcpStream::connect(("127.0.0.1", to)) else { return };
    {
        let mut state = state.lock().unwrap();
        if state.is_cut(member, &from) {
            return;
        }
        let streams = [connection.try_clone().unwrap(), member_side.try_clone().unwrap()];
        state.open.push((member, from, streams));
    }
    if member_side.write_all(&head).is_err() {
        return;
    }
    let (mut back_from, mut back_to) = (member_side.try_clone().unwrap(), connection.try_clone().unwrap());
    let back = thread::spawn(move || {
        drop(std::io::copy(&mut back_from, &mut back_to));
        drop(back_to.shutdown(Shutdown::Both));
    });
    drop(std::io::copy(&mut connection, &mut member_side));
    drop(member_side.shutdown(Shutdown::Both));
    drop(back.join());
}
