//! Faults: what strikes the cluster, and how it is mended.

use std::thread;
use std::time::{Duration, Instant};

use super::super::cluster::Cluster;
use super::super::linearizability::workload::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// SIGKILL, and started again.
    KillLeader,
    KillMember,
    /// SIGSTOP, and SIGCONT before anybody else is elected.
    HoldLeader,
    /// SIGSTOP for longer than that, and SIGCONT.
    PauseLeader,
    PauseMember,
    /// Cut off from the others, while it still talks to its clients.
    CutOffLeader,
    CutOffMember,
    /// All old revisions go.
    Compact,
    /// The leases of all nodes end, as if none had been heard of for long.
    EndLeases,
    /// etcd's quota of space is used up, and then there is space again.
    FillSpace,
}

impl Fault {
    pub(crate) const ALL: [Self; 10] = [
        Self::KillLeader,
        Self::PauseMember,
        Self::CutOffLeader,
        Self::Compact,
        Self::PauseLeader,
        Self::CutOffMember,
        Self::EndLeases,
        Self::HoldLeader,
        Self::KillMember,
        Self::FillSpace,
    ];
}

/// How long a fault lasts that does not end by itself, in tenths of a second; and how long it is quiet after one.
const LASTS: (u8, u8) = (15, 35);
const QUIET: (u8, u8) = (3, 12);

pub(crate) struct Faults<'a> {
    cluster: &'a mut Cluster,
    random: Random,
    began: Instant,
    struck: Vec<Struck>,
}

/// A fault, and from when to when it lasted until all members answered again, since the callers began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Struck {
    pub(crate) fault: Fault,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(cluster: &'a mut Cluster, seed: u64, began: Instant) -> Self {
        Self { cluster, random: Random::new(seed), began, struck: Vec::new() }
    }

    /// Lets a fault strike, mends it, and waits until all members answer.
    pub(crate) fn strike(&mut self, fault: Fault) {
        let leader = self.leader();
        let member = (leader + 1 + usize::from(self.random.below(2))) % 3;
        let lasts = self.tenths(LASTS);
        let from = self.began.elapsed();
        match fault {
            Fault::KillLeader => self.kill(leader, lasts),
            Fault::KillMember => self.kill(member, lasts),
            Fault::HoldLeader => self.pause(leader, Duration::from_millis(600)),
            Fault::PauseLeader => self.pause(leader, lasts),
            Fault::PauseMember => self.pause(member, lasts),
            Fault::CutOffLeader => self.cut_off(leader, lasts),
            Fault::CutOffMember => self.cut_off(member, lasts),
            Fault::Compact => {
                // Another store's writes too are revisions.
                (0..5).for_each(|_| drop(self.control(0, &["put", "another", ""])));
                self.compact();
            }
            Fault::EndLeases => self.end_leases(),
            Fault::FillSpace => self.fill_space(),
        }
        self.cluster.wait_until_healthy();
        self.struck.push(Struck { fault, from, to: self.began.elapsed() });
        let quiet = self.tenths(QUIET);
        thread::sleep(quiet);
    }

    pub(crate) fn end(self) -> Vec<Struck> {
        self.struck
    }

    fn tenths(&mut self, (least, most): (u8, u8)) -> Duration {
        Duration::from_millis(100 * u64::from(least + self.random.below(most - least)))
    }

    fn leader(&self) -> usize {
        loop {
            match self.cluster.leader() {
                Some(leader) => return leader,
                None => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn kill(&mut self, member: usize, lasts: Duration) {
        self.cluster.kill(member);
        thread::sleep(lasts);
        self.cluster.restart(member);
    }

    fn pause(&mut self, member: usize, lasts: Duration) {
        self.cluster.pause(member);
        thread::sleep(lasts);
        self.cluster.resume(member);
    }

    fn cut_off(&mut self, member: usize, lasts: Duration) {
        self.cluster.cut_off(member);
        thread::sleep(lasts);
        self.cluster.heal();
    }

    fn compact(&self) {
        let said: serde_json::Value =
            serde_json::from_str(&self.control(0, &["get", "another", "--write-out=json"])).unwrap();
        self.control(0, &["compact", &said["header"]["revision"].to_string()]);
    }

    fn end_leases(&self) {
        let list = self.control(0, &["lease", "list"]);
        let is_lease = |line: &&str| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let ended = list.lines().map(str::trim).filter(is_lease).map(|lease| {
            self.control(0, &["lease", "revoke", lease]);
        });
        assert!(ended.count() > 0, "{list}");
    }

    fn fill_space(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let full = runtime.block_on(async {
            let mut client = etcd_client::Client::connect([self.cluster.endpoint(0)], None).await.unwrap();
            loop {
                if let Err(full) = client.put("filler", vec![0; 1 << 20], None).await {
                    return full.to_string();
                }
            }
        });
        assert!(full.contains("space exceeded"), "{full}");
        thread::sleep(Duration::from_millis(500));
        self.compact();
        for member in 0..3 {
            self.control(member, &["defrag"]);
        }
        self.control(0, &["alarm", "disarm"]);
    }

    /// What etcdctl says. All members are healthy, but it has its own time-outs.
    fn control(&self, member: usize, arguments: &[&str]) -> String {
        let said = (0..20).find_map(|_| self.cluster.control(member, arguments));
        said.unwrap_or_else(|| panic!("etcdctl fails: {arguments:?}"))
    }
}
