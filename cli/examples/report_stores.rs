//! Makes the stores of which `cli/tests/report` makes pages, in a new folder: one with two years of history, an empty one,
//! one without history, and one whose texts are hostile.
//!
//! `cargo run -p keystead-cli --example report_stores -- FOLDER`

use std::fs;
use std::path::Path;

use keystead::{
    Alias, Description, KeyId, KeySpec, NewKey, Options, Origin, PendingDays, Quotas, Request, Result,
    RotationInterval, Scope, Store, TagKey, TagValue, Timestamp,
};

const DAY: u64 = 24 * 60 * 60 * 1000;
/// How many days the history is long.
const DAYS: u64 = 730;
/// What keys are for, and of which team.
const USES: [(&str, &str); 8] = [
    ("orders", "checkout"),
    ("invoices", "billing"),
    ("payments", "billing"),
    ("sessions", "identity"),
    ("backups", "platform"),
    ("documents", "archive"),
    ("webhooks", "integration"),
    ("reports", "analytics"),
];
/// What a web page would take for something else than text.
const HOSTILE: [&str; 5] = [
    "</script><img src=x onerror=\"document.title='owned'\">",
    "</title></style><script>document.title='owned'</script>",
    "\"><svg onload=\"document.title='owned'\">",
    "<!-- {} ' onmouseover='document.title=1' & &lt;b&gt; <base href=https://example.invalid/>",
    "\u{202e}turned\u{2066} \u{7}\u{0}\n<meta http-equiv=refresh content=0;url=https://example.invalid/>",
];

fn main() -> Result<()> {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("name a folder that is to be made");
        std::process::exit(2);
    };
    let folder = Path::new(&folder);
    fs::create_dir(folder)?;
    Store::open(folder.join("empty.redb"))?;
    Sample::new(Options::new().history(false).open(folder.join("without-history.redb"))?)?.fill(60)?;
    let quotas = Quotas { keys_per_project: 150, ..Quotas::default() };
    Sample::new(Options::new().quotas(quotas).open(folder.join("kms.redb"))?)?.fill(DAYS)?;
    hostile(&Store::open(folder.join("<img src=x onerror=\"document.title='owned'\">.redb"))?)
}

/// A store that is filled day by day.
struct Sample {
    store: Store,
    scopes: Vec<Scope>,
    chance: u64,
    /// The keys there are, each with the number of its scope, and whether it can be rotated.
    keys: Vec<(KeyId, usize, bool)>,
    aliases: Vec<(Alias, usize)>,
}

impl Sample {
    fn new(store: Store) -> Result<Self> {
        let domains = ["3bab8e245e854f68af5967c00dd43127", "a7f0c2d95b1e4c6f8d3e9b2a10c47f58"];
        let projects = ["production", "staging", "analytics", "archive", "sandbox"];
        let scope = |(number, project): (usize, &&str)| Scope::new(domains[number % 2], project);
        let scopes = projects.iter().enumerate().map(scope).collect::<Result<_, _>>()?;
        Ok(Self { store, scopes, chance: 7, keys: Vec::new(), aliases: Vec::new() })
    }

    /// A number below `bound`, always the same ones one after the other.
    fn below(&mut self, bound: usize) -> usize {
        self.chance =
            self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.chance >> 33).expect("it has 31 bits") % bound
    }

    fn fill(&mut self, days: u64) -> Result<()> {
        let now = Timestamp::now().as_millis();
        for day in 0..days {
            let time = Timestamp::from_millis(now - (days - day) * DAY + 9 * DAY / 24);
            // The larger it is, the more happens.
            for _ in 0..self.below(3).min(self.below(3)) {
                self.create(time, day)?;
            }
            if day.is_multiple_of(3) && !self.keys.is_empty() {
                self.change(time, day, days)?;
            }
        }
        Ok(())
    }

    fn create(&mut self, time: Timestamp, day: u64) -> Result<()> {
        let projects = self.scopes.len();
        let place = self.below(projects).min(self.below(projects));
        let (what, team) = USES[self.below(USES.len())];
        let number = self.keys.len();
        let spec = [
            KeySpec::Aes256,
            KeySpec::Aes256,
            KeySpec::Aes256,
            KeySpec::Rsa3072,
            KeySpec::EcP256,
            KeySpec::Hmac256,
        ][self.below(6)];
        let external = spec == KeySpec::Aes256 && number % 17 == 5;
        let mut new = NewKey::new(&format!("{what}-{day:03}-{number}"))?.spec(spec);
        new = new.tag(TagKey::new("team")?, TagValue::new(team)?);
        if number.is_multiple_of(4) {
            new = new.description(Description::new(&format!("encrypts the {what} of the {team} team"))?);
        }
        if external {
            new = new.origin(Origin::External);
        }
        for index in 0..[0, 1, 1, 1, 2, 3, 6, 13][self.below(8)] {
            let alias: Alias = format!("{what}/{number}/{index}").parse()?;
            self.aliases.push((alias.clone(), place));
            new = new.alias(alias);
        }
        let rotates = spec == KeySpec::Aes256 && !external;
        let request = self.request(place, time);
        self.store.write(&request, |txn| {
            let key = txn.create_key(&new)?;
            if rotates && !number.is_multiple_of(3) {
                let days = if number.is_multiple_of(2) { 90 } else { 365 };
                txn.enable_rotation(key.key_id, RotationInterval::new(days)?)?;
            }
            Ok(())
        })?;
        self.keys.push((new.key_id, place, rotates));
        Ok(())
    }

    /// One of what happens to keys. What the rules refuse does not happen.
    fn change(&mut self, time: Timestamp, day: u64, days: u64) -> Result<()> {
        let which = self.below(self.keys.len());
        let (key_id, place, rotates) = self.keys[which];
        let request = self.request(place, time);
        let pending = PendingDays::new(if day + 150 < days {
            7
        } else {
            30 + u16::try_from(self.below(200)).unwrap_or(0)
        })?;
        let which = self.below(self.aliases.len().max(1));
        let alias = self.aliases.get(which).filter(|(_, of)| *of == place).cloned();
        let which = self.below(9);
        let done = self.store.write(&request, |txn| match which {
            0 | 1 if rotates => txn.record_rotation(key_id).map(drop),
            2 | 3 => txn.schedule_deletion(key_id, pending).map(drop),
            4 => txn.disable(key_id).map(drop),
            5 => txn.freeze(key_id).map(drop),
            6 => txn.unfreeze(key_id).map(drop),
            _ => alias.as_ref().map_or(Ok(()), |(alias, _)| txn.associate_alias(alias, key_id).map(drop)),
        });
        refused(done.map(drop))?;
        // What was due a month ago at the latest is purged; some of what is due later waits.
        let due: Vec<_> = self
            .keys
            .iter()
            .filter(|(id, ..)| day.is_multiple_of(30) && id.as_bytes()[0] > 40)
            .copied()
            .collect();
        for (key_id, place, _) in due {
            let request = self.request(place, time);
            refused(self.store.write(&request, |txn| txn.purge(key_id)).map(drop))?;
        }
        Ok(())
    }

    fn request(&self, place: usize, time: Timestamp) -> Request {
        Request::new(&self.scopes[place]).at(time).actor("sample")
    }
}

/// A refusal is no failure.
fn refused(done: Result<()>) -> Result<()> {
    match done {
        Err(error) if error.api().is_some() => Ok(()),
        done => done,
    }
}

fn hostile(store: &Store) -> Result<()> {
    let scope = Scope::new("domain", "project")?;
    for (number, text) in HOSTILE.iter().enumerate() {
        let mut new = NewKey::new(&format!("javascript:{number}"))?.description(Description::new(text)?);
        new = new.tag(TagKey::new(text)?, TagValue::new(text)?);
        new = new.alias(format!("a//{number}").parse()?).alias(format!("b::{number}").parse()?);
        let request = Request::new(&scope).actor(text);
        store.write(&request, |txn| {
            txn.create_key(&new)?;
            txn.schedule_deletion(new.key_id, PendingDays::new(7)?)
        })?;
        let new = NewKey::new(&format!("kept-{number}"))?.description(Description::new(text)?);
        store.write(&request, |txn| txn.create_key(&new))?;
    }
    Ok(())
}
