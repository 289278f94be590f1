//! Which file something was written to, and since which start of the system: what was written to that file through the
//! page cache is there for as long as the system runs, also when the process that wrote it was killed.

#[cfg(target_os = "linux")]
use std::os::unix::fs::MetadataExt;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;

#[cfg(target_os = "linux")]
use twox_hash::XxHash3_64;

/// A random number of each start of the system. Some containers have one of their own: processes in different ones then do
/// not take each other's for the same, as after another start.
#[cfg(target_os = "linux")]
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A number that is the same for the same file as long as the system runs, and differs after that, and for a copy; 0
/// where that can't be told.
pub(crate) fn of(path: &Path) -> u64 {
    #[cfg(target_os = "linux")]
    {
        static BOOT: OnceLock<Option<String>> = OnceLock::new();
        let boot = BOOT.get_or_init(|| std::fs::read_to_string(BOOT_ID).ok());
        let (Some(boot), Ok(file)) = (boot, path.metadata()) else { return 0 };
        XxHash3_64::oneshot(format!("{boot} {} {}", file.dev(), file.ino()).as_bytes()).max(1)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        0
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::of;

    #[test]
    fn a_file_is_the_same_under_each_name_and_a_copy_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let [one, renamed, copy] = ["one", "renamed", "copy"].map(|name| folder.path().join(name));
        std::fs::write(&one, b"bytes").unwrap();
        std::fs::copy(&one, &copy).unwrap();
        let before = of(&one);
        std::fs::rename(&one, &renamed).unwrap();
        assert_ne!(before, 0);
        assert_eq!(before, of(&renamed));
        assert_ne!(before, of(&copy));
        assert_eq!(of(&one), 0, "it is not there any more");
    }
}
