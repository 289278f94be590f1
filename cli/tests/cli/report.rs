//! The page of `report`, as text: `cli/tests/report` looks at it in a browser.

use std::fs;

use keystead::{
    Description, KeyId, NewKey, Options, PendingDays, Quotas, Request, Store, TagKey, TagValue, Timestamp,
};
use serde_json::json;

use crate::files::{damage, fill};
use crate::tool::{DOMAIN, PROJECT, Tool, scope};

const DAY: u64 = 24 * 60 * 60 * 1000;

/// The page of a store, which is also as it must be in every case.
fn page(tool: &Tool, line: &str) -> String {
    let page = tool.ok(&format!("report {line}"));
    assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\">") && page.ends_with("</body></html>\n"));
    assert!(
        page.contains(
            "http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-"
        )
    );
    for foreign in ["<script", "<link", "<img", "http:", "https:", " style=", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    page
}

/// The numbers in the table under a chart.
fn table(page: &str, figure: &str) -> Vec<(String, String)> {
    let chart = page.split(&format!("<figure id=\"{figure}\">")).nth(1).unwrap();
    let rows = chart.split("<tbody>").nth(1).unwrap().split("</tbody>").next().unwrap().split("<tr>").skip(1);
    let cell = |row: &str, end: &str| row.split(end).next().unwrap().rsplit('>').next().unwrap().to_owned();
    rows.map(|row| (cell(row, "</th>"), cell(row, "</td>"))).collect()
}

fn number(page: &str, figure: &str, name: &str) -> String {
    table(page, figure).into_iter().find(|(found, _)| found == name).unwrap().1
}

#[test]
fn a_page_tells_of_an_empty_store() {
    let tool = Tool::with_store();
    let page = page(&tool, "");
    assert!(page.contains("<strong>Sound.</strong>") && page.contains("There are no keys."));
    assert!(page.contains("Nothing is in the history.") && page.contains("There are no projects."));
    assert!(table(&page, "states").iter().all(|(_, keys)| keys == "0"));
}

#[test]
fn a_page_tells_of_keys_and_their_history() {
    let tool = Tool::with_store();
    tool.ok("create orders --alias a --alias b --description for_orders --tag team=checkout");
    tool.ok("create invoices --spec RSA_3072 --alias c");
    tool.ok("disable invoices");
    tool.ok("create old");
    tool.ok("schedule-deletion old --days 9");
    let stats = tool.json("stats");
    let page = page(&tool, "");
    for (figure, name, expected) in [
        ("states", "enabled", "1"),
        ("states", "disabled", "1"),
        ("states", "pending deletion", "1"),
        ("specs", "AES_256", "2"),
        ("aliases-of-a-key", "none", "1"),
        ("aliases-of-a-key", "2", "1"),
        ("days-left", "within 30 days", "1"),
        ("days-old", "less than 30 days", "1"),
        ("operations", "create key", "6"),
        ("operations", "disable", "1"),
    ] {
        assert_eq!(number(&page, figure, name), expected, "{figure}: {name}");
    }
    assert!(page.contains(&format!("As it was after commit {}.", stats["commit"])));
    assert!(page.contains(stats["position"].as_str().unwrap()) && page.contains("in 9 days"));
    assert!(page.contains("for_orders") && page.contains("<bdi>team</bdi> = <bdi>checkout</bdi>"));
}

#[test]
fn a_page_says_that_there_is_no_history() {
    let tool = Tool::new();
    tool.ok("init --no-history");
    tool.ok("create orders");
    let page = page(&tool, "");
    assert!(page.contains("made without history") && !page.contains("id=\"growth\""));
    assert_eq!(number(&page, "states", "enabled"), "1");
}

/// A day that has begun counts, in the table and in the chart.
#[test]
fn days_to_a_deletion_are_rounded_up() {
    let tool = Tool::with_store();
    let keys =
        [(8, "old"), (7, "older"), (6, "oldest")].map(|(before, name)| (before, NewKey::new(name).unwrap()));
    let store = Store::open(tool.store()).unwrap();
    for (days_before, new) in &keys {
        let before = Timestamp::now().as_millis() - days_before * DAY;
        let request = Request::new(&scope()).at(Timestamp::from_millis(before + 60 * 60 * 1000));
        store.write(&request, |txn| txn.create_key(new)).unwrap();
        store.write(&request, |txn| txn.schedule_deletion(new.key_id, PendingDays::new(7).unwrap())).unwrap();
    }
    drop(store);
    tool.ok("create now");
    tool.ok("schedule-deletion now --days 7");
    let page = page(&tool, "");
    for (words, times) in [("due now</span>", 1), (">in 1 day<", 1), (">in 2 days<", 1), (">in 7 days<", 1)] {
        assert_eq!(page.matches(words).count(), times, "{words}");
    }
    assert_eq!(number(&page, "days-left", "due now"), "1");
    assert_eq!(number(&page, "days-left", "within 7 days"), "3");
}

#[test]
fn what_was_before_a_trimmed_history_is_counted() {
    let tool = Tool::with_store();
    for name in ["a", "b", "c"] {
        tool.ok(&format!("create {name} --alias {name}"));
    }
    let commit = tool.json("stats")["commit"].clone();
    tool.ok(&format!("trim-history {commit} --yes"));
    tool.ok("create d");
    let page = page(&tool, "");
    assert!(page.contains(&format!("The history begins behind commit {commit};")));
    assert_eq!(table(&page, "growth").last().unwrap().1, "4");
}

#[test]
fn a_text_of_a_stranger_is_no_markup() {
    let tool = Tool::with_store();
    let hostile = "</script></style><img src=x onerror='alert(1)'>\" & \u{202e}\u{1b}[31m";
    let new = NewKey::new("orders").unwrap().description(Description::new(hostile).unwrap());
    let new = new.tag(TagKey::new(hostile).unwrap(), TagValue::new(hostile).unwrap());
    let store = Store::open(tool.store()).unwrap();
    store.write(&Request::new(&scope()).actor(hostile), |txn| txn.create_key(&new)).unwrap();
    drop(store);
    let page = page(&tool, "");
    let shown = "&lt;/script&gt;&lt;/style&gt;&lt;img src=x onerror=&#39;alert(1)&#39;&gt;&quot; &amp; \\u{202e}\\u{1b}[31m";
    assert_eq!(page.matches(shown).count(), 3, "the description, the tag and its value");
    assert!(!page.contains('\u{202e}') && !page.contains('\u{1b}'));
}

#[test]
fn tables_are_short_and_say_what_they_leave_out() {
    let tool = Tool::with_store();
    let quotas = Quotas { keys_per_project: 3000, ..Quotas::default() };
    let store = Options::new().quotas(quotas).open(tool.store()).unwrap();
    let keys: Vec<_> = (0..2500).map(|number| NewKey::new(&format!("key-{number:04}")).unwrap()).collect();
    let ids: Vec<KeyId> = keys.iter().map(|key| key.key_id).collect();
    let long_ago =
        Request::new(&scope()).at(Timestamp::from_millis(Timestamp::now().as_millis() - 400 * DAY));
    store.import(&long_ago, keys).for_each(|batch| assert!(batch.unwrap().refused.is_empty()));
    let days = PendingDays::new(500).unwrap();
    store
        .write(&long_ago, |txn| {
            ids[..30].iter().try_for_each(|id| txn.schedule_deletion(*id, days).map(drop))
        })
        .unwrap();
    drop(store);
    let page = page(&tool, "--no-verify --rows 7 --keys-per-project 2500");
    assert!(page.contains("23 more are left out here.") && page.contains("2,463 more are left out here."));
    assert_eq!(
        (number(&page, "states", "enabled"), number(&page, "days-old", "1 to 2 years")),
        ("2,470".to_owned(), "2,470".to_owned())
    );
    assert!(page.contains("2,500 of 2,500") && page.contains("<span class=\"mark\">full</span>"));
    assert!(page.contains("<strong>Not verified.</strong>") && page.len() < 100_000, "{}", page.len());
    tool.fails(2, "report --rows 0");
    tool.fails(2, "report --rows 1001");
}

#[test]
fn a_page_of_one_project() {
    let tool = Tool::with_store();
    tool.ok("create orders");
    tool.ok("create invoices --project other");
    tool.ok("create reports --project other");
    let one = page(&tool, &format!("--domain {DOMAIN} --project {PROJECT}"));
    assert_eq!(
        (number(&one, "states", "enabled"), number(&one, "operations", "create key")),
        ("1".to_owned(), "1".to_owned())
    );
    assert_eq!(table(&one, "growth").last().unwrap().1, "1");
    // What the environment names is not taken for it.
    assert_eq!(number(&page(&tool, ""), "states", "enabled"), "3");
    assert!(tool.fails(2, "report --project other").contains("--domain"));
}

#[test]
fn a_page_is_a_file_of_its_owner_and_replaced_only_if_told() {
    let tool = Tool::with_store();
    tool.ok("create orders --alias a");
    assert_eq!(tool.ok("report --output page.html"), "wrote a page of 1 keys with 1 aliases, of 1 scopes\n");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(tool.path("page.html")).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let before = tool.read("page.html");
    tool.ok("create invoices");
    assert!(tool.fails(1, "report --output page.html").contains("there is a file already"));
    assert_eq!(tool.read("page.html"), before);
    let told = tool.json("report --output page.html --replace");
    assert_eq!((&told["keys"], &told["findings"], &told["one_commit"]), (&json!(2), &json!(0), &json!(true)));
    assert_eq!(number(&tool.read("page.html"), "states", "enabled"), "2");

    let store = fs::read(tool.store()).unwrap();
    assert!(
        tool.fails(1, "report --output kms.redb --replace").contains("is no page that this command made")
    );
    assert_eq!(fs::read(tool.store()).unwrap(), store);
    tool.ok("report --output new.html --replace");
    let said = tool.fails(5, "report --output nowhere/page.html");
    assert!(said.contains("nowhere/page.html: "), "{said}");
    let left: Vec<_> = fs::read_dir(tool.folder()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing unfinished is left: {left:?}");
}

#[test]
fn a_page_is_made_beside_the_process_that_writes() {
    let tool = Tool::with_store();
    let store = Store::open(tool.store()).unwrap();
    store.write(&Request::new(&scope()), |txn| txn.create_key(&NewKey::new("orders").unwrap())).unwrap();
    assert_eq!(number(&page(&tool, ""), "states", "enabled"), "1");
}

#[test]
fn a_page_of_a_damaged_store_says_so() {
    let tool = Tool::with_store();
    fill(&tool, "before");
    tool.ok("create orders --description this-will-be-damaged");
    fill(&tool, "behind");
    damage(&tool, "this-will-be-damaged");
    for (line, verified) in
        [("report --output all.html", true), ("report --no-verify --output part.html", false)]
    {
        let said = tool.fails(3, line);
        assert!(said.contains("findings are in it") && said.contains("keystead repair"), "{said}");
        let page = tool.read(if verified { "all.html" } else { "part.html" });
        assert!(
            page.contains("<strong>Not sound: ")
                && page.contains("could not be read; the figures above lack it")
        );
        let scopes =
            page.contains("<li>the list of scopes: ") || page.contains(&format!("<li>{DOMAIN}/{PROJECT}: "));
        assert!(scopes && page.contains("<li>history: "), "{page}");
        assert_eq!(page.contains("Promises that do not hold:"), verified);
    }
}
