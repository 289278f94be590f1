//! What the numbers were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use crate::run::Plan;

const LOCK: &str = include_str!("../Cargo.lock");
const CRATES: [&str; 9] = [
    "keystead",
    "redb",
    "rusqlite",
    "libsqlite3-sys",
    "heed",
    "lmdb-master-sys",
    "fjall",
    "rocksdb",
    "librocksdb-sys",
];

/// A description of the machine, the disk, the versions and the run.
pub fn describe(plan: &Plan) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let (device, system) = mount_of(&plan.folder);
    let mut lines = vec![
        ("CPU".to_owned(), field(&read("/proc/cpuinfo"), "model name")),
        ("cores".into(), available_parallelism().map_or(String::new(), |cores| cores.to_string())),
        ("memory".into(), field(&read("/proc/meminfo"), "MemTotal")),
        ("kernel".into(), format!("Linux {}", read("/proc/sys/kernel/osrelease").trim())),
        ("disk".into(), format!("{device}, {system}")),
        ("load average".into(), read("/proc/loadavg").trim().to_owned()),
        ("rustc".into(), output("rustc", &["--version"])),
        ("keystead at".into(), output("git", &["describe", "--always", "--dirty"])),
        ("drop_caches".into(), cold(plan.quick)),
        ("sizes".into(), format!("{:?}", plan.sizes)),
        ("rounds".into(), format!("{}, slices of {:?}", plan.rounds, plan.slice)),
    ];
    lines.extend(CRATES.iter().filter_map(|name| Some((format!("crate {name}"), version(name)?))));
    lines.into_iter().map(|(name, value)| format!("{name:<24}{value}\n")).collect()
}

/// The version of a crate that was built in.
fn version(name: &str) -> Option<String> {
    let start = LOCK.find(&format!("name = \"{name}\"\n"))?;
    Some(LOCK[start..].lines().nth(1)?.split('"').nth(1)?.to_owned())
}

fn cold(quick: bool) -> String {
    let permitted = !quick && fs::OpenOptions::new().write(true).open("/proc/sys/vm/drop_caches").is_ok();
    let text = if permitted {
        "all caches were dropped"
    } else {
        "only the pages of the stores' files were dropped"
    };
    format!("{text} before open_after_kill")
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Device and type of the file system that holds this folder.
fn mount_of(folder: &Path) -> (String, String) {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, at, system) = (words.next()?, words.next()?, words.next()?);
        folder.starts_with(at).then(|| (at.len(), (device.to_owned(), system.to_owned())))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, mount)| mount).unwrap_or_default()
}
