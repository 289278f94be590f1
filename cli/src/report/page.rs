//! The page: [`write`] tells [`Figures`] in HTML.

use std::cmp::{Ordering, Reverse};
use std::fmt::Display;

use data_encoding::BASE64;
use keystead::{KeyRecord, KeyState, Quotas, Report as Verified};
use sha2::{Digest, Sha256};

use super::charts::{self, Stretch, Stretches, Words, count, percent};
use super::figures::{Figures, History, Row, days_between, days_left, is_overdue, material_since};
use super::html::Html;
use super::tally::{Classes, First, Happened};
use crate::history::operation;
use crate::location::{Location, PageCheck};
use crate::output::show_bytes;
use crate::values::{show_day, show_minute, show_time};

/// What a page begins with. Only a file that begins so is ever replaced.
pub(super) const BEGIN: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
    <meta name=\"generator\" content=\"keystead report\">";

const STYLE: &str = include_str!("style.css");
/// How many columns a chart over time has at most.
const COLUMNS_MAX: u64 = 60;
/// How many characters of a description or tag, and how many tags, a table shows.
const TEXT_MAX: usize = 100;
const TAGS_MAX: usize = 3;

/// What the page says that is not read in the store.
pub(super) struct About {
    pub(super) location: Location,
    pub(super) bytes: Option<u64>,
    pub(super) quotas: Quotas,
    /// How many rows a table has.
    pub(super) rows: usize,
}

/// The whole page.
pub(super) fn write(figures: &Figures, about: &About) -> String {
    let mut page = Page { html: Html::default(), figures, about };
    page.head();
    page.put("<main>", &[]);
    page.verdict();
    page.tiles();
    page.put("<div class=\"cards\">", &[]);
    page.kinds();
    page.times();
    page.deletions();
    page.rotation();
    page.aliases();
    page.quotas();
    page.verification();
    page.store();
    page.put("</div></main><footer>Read-only, made by keystead {}. ", &[&env!("CARGO_PKG_VERSION")]);
    page.put(
        "This page has no script and loads nothing. It holds names of keys: treat it as you treat the store.",
        &[],
    );
    page.put("</footer></body></html>\n", &[]);
    page.html.into_page()
}

struct Page<'a> {
    html: Html,
    figures: &'a Figures,
    about: &'a About,
}

impl Page<'_> {
    fn put(&mut self, markup: &'static str, texts: &[&dyn Display]) {
        self.html.put(markup, texts);
    }

    fn head(&mut self) {
        let (figures, name) = (self.figures, self.about.location.name());
        let style = BASE64.encode(&Sha256::digest(STYLE));
        self.put(BEGIN, &[]);
        self.put("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ", &[]);
        self.put("style-src 'sha256-{}'; base-uri 'none'; form-action 'none'\">", &[&style]);
        self.put("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">", &[]);
        self.put(
            "<meta name=\"referrer\" content=\"no-referrer\"><meta name=\"robots\" content=\"noindex\">",
            &[],
        );
        self.put("<title>{} - keystead report</title><style>", &[&name]);
        self.put(STYLE, &[]);
        self.put("</style></head><body><header><p class=\"over\">keystead report</p><h1>{}</h1>", &[&name]);
        self.put("<p class=\"lead\">As it was {}. ", &[&self.moment()]);
        self.put(
            "Made on <time datetime=\"{}\">{}</time> ",
            &[&show_time(figures.now), &show_minute(figures.now)],
        );
        self.put("UTC by keystead {}.</p>", &[&env!("CARGO_PKG_VERSION")]);
        if let Some(scope) = &figures.scope {
            self.put("<p class=\"lead\">Only of project <code>{}</code> of domain ", &[scope.project()]);
            self.put("<code>{}</code>.</p>", &[scope.domain()]);
        }
        self.put("<nav aria-label=\"Parts of this page\"><ul>", &[]);
        self.put("<li><a href=\"#kinds\">Keys</a></li><li><a href=\"#times\">History</a></li>", &[]);
        self.put(
            "<li><a href=\"#deletions\">Deletions</a></li><li><a href=\"#rotation\">Rotation</a></li>",
            &[],
        );
        self.put("<li><a href=\"#aliases\">Aliases</a></li><li><a href=\"#quotas\">Quotas</a></li>", &[]);
        self.put(
            "<li><a href=\"#verification\">Verification</a></li><li><a href=\"#store\">The store</a></li>",
            &[],
        );
        self.put("</ul></nav></header>", &[]);
    }

    /// At which commit it was read.
    fn moment(&self) -> String {
        match self.figures.commits {
            (first, last) if first == last => format!("after commit {first}"),
            (first, last) => format!("between commits {first} and {last}: others wrote while it was read"),
        }
    }

    fn verdict(&mut self) {
        let found = self.figures.findings();
        if found > 0 {
            self.put("<p class=\"verdict bad\"><strong>Not sound: {} findings.</strong> ", &[&count(found)]);
            self.put("Keep the file. <a href=\"#verification\">What was found, and what to do</a></p>", &[]);
            return;
        }
        match &self.figures.verified {
            Some(verified) => {
                self.put("<p class=\"verdict\"><strong>Sound.</strong> Every promise of the store holds: {} rows ", &[
                    &count(verified.rows),
                ]);
                self.put("and {} changes in the history were checked.</p>", &[&count(verified.changes)]);
            }
            None => self.put(
                "<p class=\"verdict\"><strong>Not verified.</strong> It was read without checking its promises.</p>",
                &[],
            ),
        }
    }

    fn tiles(&mut self) {
        let figures = self.figures;
        let pending = figures.states.get(&KeyState::PendingDeletion).copied().unwrap_or(0);
        self.put("<dl class=\"tiles\">", &[]);
        self.tile("keys", &count(figures.keys));
        self.tile("aliases", &count(figures.aliases));
        self.tile("projects", &count(figures.scopes));
        self.tile("pending deletion", &count(pending));
        self.tile("rotation overdue", &count(figures.rotation.overdue));
        match &figures.history {
            Some(history) => self.tile("commits in the history", &count(history.commits)),
            None => self.tile("history", "none"),
        }
        self.put("</dl>", &[]);
    }

    fn tile(&mut self, name: &'static str, figure: &str) {
        self.put("<div><dt>{}</dt><dd>{}</dd></div>", &[&name, &figure]);
    }

    fn kinds(&mut self) {
        let figures = self.figures;
        let states = figures.states.iter().map(|(state, keys)| (state.to_string().replace('_', " "), *keys));
        self.put("<section id=\"kinds\"><h2>Keys by state</h2>", &[]);
        charts::bars(&mut self.html, STATES, &states.collect::<Vec<_>>());
        self.put("</section><section><h2>Keys by spec</h2>", &[]);
        let specs: Vec<_> = figures.specs.iter().map(|(spec, keys)| (spec.to_string(), *keys)).collect();
        self.bars_or_none(SPECS, specs, "There are no keys.");
        self.put("</section>", &[]);
    }

    /// Bars, the longest first, or else a sentence.
    fn bars_or_none(&mut self, words: Words, mut rows: Vec<(String, u64)>, none: &'static str) {
        rows.sort_by_key(|(_, number)| Reverse(*number));
        match rows.is_empty() {
            true => self.put("<p class=\"note\">{}</p>", &[&none]),
            false => charts::bars(&mut self.html, words, &rows),
        }
    }

    fn times(&mut self) {
        self.put("<section id=\"times\" class=\"full\"><h2>Growth</h2>", &[]);
        let Some(history) = &self.figures.history else {
            self.put("<p class=\"note\">This store was made without history, so nothing is known of how it grew and ", &[]);
            self.put("what was changed when. That can't be switched on later.</p></section>", &[]);
            return;
        };
        if history.floor.number() > 0 {
            self.put("<p class=\"note\">The history begins behind commit {}; ", &[&history.floor]);
            self.put("what was before was trimmed, and what is left of it is counted from the first column on.</p>", &[]);
        }
        let stretches = self.stretches(history);
        if stretches.all.is_empty() {
            self.put("<p class=\"note\">Nothing is in the history.</p></section>", &[]);
            return;
        }
        self.put(
            "<p class=\"note\">How many keys and aliases there were at the end of each stretch of {}, ",
            &[&stretches.length()],
        );
        self.put("by the times that callers gave with their requests, in UTC.</p>", &[]);
        charts::growth(&mut self.html, GROWTH, &stretches);
        self.put("</section><section class=\"full\"><h2>Changes</h2>", &[]);
        self.put("<p class=\"note\">{} changes of keys and aliases in ", &[&count(history.happened.all())]);
        self.put(
            "{} commits; a column is {}. What was made or erased with a key counts, too.</p>",
            &[&count(history.commits), &stretches.length()],
        );
        charts::changes(&mut self.html, CHANGES, &stretches);
        self.put("</section><section class=\"full\"><h2>Changes by operation</h2>", &[]);
        let operations = history.operations.iter();
        let named = operations.map(|(done, changes)| (operation(*done).replace('_', " "), *changes));
        self.bars_or_none(OPERATIONS, named.collect(), "");
        self.put("</section>", &[]);
    }

    /// What there was at the end of each stretch of time, from what is there now backwards.
    fn stretches(&self, history: &History) -> Stretches {
        let (stretches, length) = history.timeline.clone().into_stretches(COLUMNS_MAX);
        let Happened { keys_made, keys_gone, aliases_made, aliases_gone, .. } = history.happened;
        let (mut keys, mut aliases) = match history.floor.number() {
            0 => (0, 0),
            _ => (
                (self.figures.keys + keys_gone).saturating_sub(keys_made),
                (self.figures.aliases + aliases_gone).saturating_sub(aliases_made),
            ),
        };
        let all = stretches.into_iter().map(|(begin, happened)| {
            keys = (keys + happened.keys_made).saturating_sub(happened.keys_gone);
            aliases = (aliases + happened.aliases_made).saturating_sub(happened.aliases_gone);
            Stretch { begin, happened, keys, aliases }
        });
        Stretches { all: all.collect(), length }
    }

    fn deletions(&mut self) {
        self.put("<section id=\"deletions\" class=\"full\"><h2>Due for deletion</h2>", &[]);
        self.put("<p class=\"note\">Keys pending deletion, the soonest first. Nothing goes by itself: when its day has ", &[]);
        self.put(
            "come, a sweep or <code>keystead purge</code> erases a key with its aliases; until then ",
            &[],
        );
        self.put("<code>keystead cancel-deletion</code> takes it back.</p><div class=\"pair\"><div>", &[]);
        charts::bars(&mut self.html, DAYS_LEFT, &owned(&self.figures.days_left));
        self.put("</div><div>", &[]);
        let now = self.figures.now;
        self.keys(&self.figures.due, ["Key", "Due", "Aliases"], |page, (key, aliases)| {
            let due = key.scheduled_deletion_at.unwrap_or_default();
            page.put(
                "<td role=\"cell\"><time datetime=\"{}\">{}</time>",
                &[&show_time(due), &show_minute(due)],
            );
            match days_left(now, due) {
                0 => page.put(" <span class=\"mark\">due now</span></td>", &[]),
                1 => page.put(" <span class=\"soft\">in 1 day</span></td>", &[]),
                days => page.put(" <span class=\"soft\">in {} days</span></td>", &[&count(days)]),
            }
            *aliases
        });
        self.put("</div></div></section>", &[]);
    }

    fn rotation(&mut self) {
        let rotation = &self.figures.rotation;
        self.put("<section id=\"rotation\" class=\"full\"><h2>Longest unrotated</h2>", &[]);
        self.put("<p class=\"note\">How old the material of a key is: the time since it was last rotated, or since the ", &[]);
        self.put("key was made if it never was. These are the keys that can be rotated: AES and SM4 with material of ", &[]);
        self.put("the service, not default keys and not pending deletion. ", &[]);
        self.put("Rotation is on for {} of {}; ", &[&count(rotation.enabled), &count(rotation.keys)]);
        self.put("{} were never rotated; ", &[&count(rotation.never)]);
        self.put("{} are overdue: it is on, and their interval has passed. ", &[&count(rotation.overdue)]);
        self.put("What a service rotates without telling the store is not known here.</p>", &[]);
        self.put("<div class=\"pair\"><div>", &[]);
        charts::bars(&mut self.html, DAYS_OLD, &owned(&rotation.days_old));
        self.put("</div><div>", &[]);
        let now = self.figures.now;
        self.keys(&rotation.oldest, ["Key", "Material since", "Days"], |page, (key, _)| {
            let since = material_since(key);
            page.put(
                "<td role=\"cell\"><time datetime=\"{}\">{}</time>",
                &[&show_time(since), &show_day(since)],
            );
            match key.rotation.last_rotated_at {
                Some(_) => page.put(" <span class=\"soft\">rotations: {}", &[&key.rotation.count]),
                None => page.put(" <span class=\"soft\">never rotated", &[]),
            }
            match key.rotation.enabled {
                true => page.put(", every {} days</span>", &[&key.rotation.interval_days.days()]),
                false => page.put(", rotation off</span>", &[]),
            }
            if is_overdue(key, now) {
                page.put(" <span class=\"mark\">overdue</span>", &[]);
            }
            page.put("</td>", &[]);
            days_between(since, now)
        });
        self.put("</div></div></section>", &[]);
    }

    fn aliases(&mut self) {
        self.put("<section id=\"aliases\" class=\"full\"><h2>Aliases of a key</h2>", &[]);
        self.put("<p class=\"note\">How many keys have how many aliases, and the keys with the most, from two on.</p>", &[]);
        self.put("<div class=\"pair\"><div>", &[]);
        charts::bars(&mut self.html, ALIASES, &owned(&self.figures.aliases_of_a_key));
        self.put("</div><div>", &[]);
        self.keys(&self.figures.most_aliases, ["Key", "State", "Aliases"], |page, (key, aliases)| {
            let state = key.state.to_string().replace('_', " ");
            page.put("<td role=\"cell\">{}</td>", &[&state]);
            *aliases
        });
        self.put("</div></div></section>", &[]);
    }

    /// A table of keys. `cell` writes what is said of one, and tells its number.
    fn keys<O: Ord>(
        &mut self,
        keys: &First<O, Row>,
        columns: [&'static str; 3],
        cell: impl Fn(&mut Self, &Row) -> u64,
    ) {
        let (rows, left_out) = keys.kept();
        if rows.is_empty() {
            return self.put("<p class=\"note\">There are none.</p>", &[]);
        }
        let [key, what, number] = columns;
        self.put(
            "<table class=\"keys\" role=\"table\"><thead><tr role=\"row\"><th scope=\"col\">{}</th>",
            &[&key],
        );
        self.put(
            "<th scope=\"col\">{}</th><th scope=\"col\" class=\"number\">{}</th></tr></thead><tbody>",
            &[&what, &number],
        );
        for row in rows {
            self.put("<tr role=\"row\">", &[]);
            self.key(&row.0);
            let shown = cell(self, row);
            self.put(
                "<td role=\"cell\" class=\"number\" data-name=\"{}\">{}</td></tr>",
                &[&number, &count(shown)],
            );
        }
        self.put("</tbody></table>", &[]);
        self.left_out(left_out);
    }

    fn left_out(&mut self, left_out: u64) {
        if left_out > 0 {
            self.put("<p class=\"note left-out\">{} more are left out here.</p>", &[&count(left_out)]);
        }
    }

    fn key(&mut self, key: &KeyRecord) {
        self.put(
            "<th role=\"rowheader\" scope=\"row\" class=\"key\"><b><bdi>{}</bdi></b>",
            &[&key.key_alias],
        );
        self.put("<code>{}</code>", &[&key.key_id]);
        if self.figures.scope.is_none() {
            self.put("<span class=\"soft\">{} / {}</span>", &[&key.domain_id, &key.project_id]);
        }
        if !key.description.as_str().is_empty() {
            let shown = shortened(key.description.as_str());
            self.put("<span class=\"soft\"><bdi>{}</bdi></span>", &[&shown]);
        }
        for (tag, value) in key.tags.iter().take(TAGS_MAX) {
            let (tag, value) = (shortened(tag.as_str()), shortened(value.as_str()));
            self.put("<span class=\"tag\"><bdi>{}</bdi> = <bdi>{}</bdi></span>", &[&tag, &value]);
        }
        if key.tags.len() > TAGS_MAX {
            self.put("<span class=\"tag\">{} more</span>", &[&(key.tags.len() - TAGS_MAX)]);
        }
        self.put("</th>", &[]);
    }

    fn quotas(&mut self) {
        let (most, quotas) = (&self.figures.most, self.about.quotas);
        self.put("<section id=\"quotas\" class=\"full\"><h2>Quotas</h2>", &[]);
        self.put("<p class=\"note\">No store remembers its quotas; these are those that this report was told, or else ", &[]);
        self.put("the defaults. Default keys count against none, keys pending deletion do.</p>", &[]);
        self.put(
            "<table><thead><tr><th scope=\"col\">Quota</th><th scope=\"col\">The most there are</th>",
            &[],
        );
        self.put("</tr></thead><tbody>", &[]);
        let each = [
            ("keys in a project", most.keys, quotas.keys_per_project),
            ("aliases of a key", most.aliases, quotas.aliases_per_key as u64),
            ("tags of a key", most.tags, quotas.tags_per_key as u64),
        ];
        for (what, used, quota) in each {
            self.put("<tr><th scope=\"row\">{}</th>", &[&what]);
            self.used(used, quota);
        }
        self.put("</tbody></table><h3>Projects with the most keys</h3>", &[]);
        let (rows, left_out) = self.figures.projects.kept();
        if rows.is_empty() {
            return self.put("<p class=\"note\">There are no projects.</p></section>", &[]);
        }
        self.put(
            "<table class=\"keys\" id=\"projects\" role=\"table\"><thead><tr role=\"row\"><th scope=\"col\">Domain and project</th>",
            &[],
        );
        self.put("<th scope=\"col\">Keys</th></tr></thead><tbody>", &[]);
        for (scope, keys) in rows {
            self.put(
                "<tr role=\"row\"><th role=\"rowheader\" scope=\"row\" class=\"key\"><code>{}</code>",
                &[scope.domain()],
            );
            self.put("<code>{}</code></th>", &[scope.project()]);
            self.used(*keys, quotas.keys_per_project);
        }
        self.put("</tbody></table>", &[]);
        self.left_out(left_out);
        self.put("</section>", &[]);
    }

    /// How much of a quota is used; ends the row.
    fn used(&mut self, used: u64, quota: u64) {
        let share = percent(used, quota);
        let width = format!("{:.2}%", (used as f64 * 100.0 / quota.max(1) as f64).min(100.0));
        self.put("<td role=\"cell\" class=\"used\">{} of {} ", &[&count(used), &count(quota)]);
        self.put("<span class=\"soft\">{}</span>", &[&share]);
        match used.cmp(&quota) {
            Ordering::Less => {}
            Ordering::Equal => self.put(" <span class=\"mark\">full</span>", &[]),
            Ordering::Greater => self.put(" <span class=\"mark\">over</span>", &[]),
        }
        self.put(
            "<svg class=\"meter\" role=\"img\" aria-label=\"{}\" width=\"100%\" height=\"7\">",
            &[&share],
        );
        self.put("<rect class=\"track\" width=\"100%\" height=\"7\" rx=\"3.5\"/>", &[]);
        if used > 0 {
            self.put("<rect class=\"bar\" width=\"{}\" height=\"7\" rx=\"3.5\"/>", &[&width]);
        }
        self.put("</svg></td></tr>", &[]);
    }

    fn verification(&mut self) {
        let figures = self.figures;
        self.put("<section id=\"verification\" class=\"full\"><h2>Verification</h2>", &[]);
        match &figures.verified {
            None => self.put(
                "<p class=\"note\">The store was not verified: <code>--no-verify</code> was given.</p>",
                &[],
            ),
            Some(verified) => {
                self.put("<p class=\"note\">The whole store was read, and every invariant checked, also by what the ", &[]);
                self.put(
                    "history tells: {} scopes, {} keys, ",
                    &[&count(verified.scopes), &count(verified.keys)],
                );
                self.put("{} aliases, {} rows, ", &[&count(verified.aliases), &count(verified.rows)]);
                self.put("{} changes.</p>", &[&count(verified.changes)]);
            }
        }
        match &figures.pages {
            None => {}
            Some(PageCheck::Sound) => {
                self.put("<p class=\"note\">Each page of the file has the right checksum.</p>", &[]);
            }
            Some(PageCheck::Damaged(why)) => self.put("<p>The pages of the file: {}</p>", &[why]),
        }
        if figures.findings() == 0 {
            return self.put("<p>Nothing was found.</p></section>", &[]);
        }
        let (damage, damage_left_out) = figures.damage.kept();
        if !damage.is_empty() {
            self.put("<p>Damaged, so that it could not be read; the figures above lack it:</p>", &[]);
            self.put("<ul class=\"findings\">", &[]);
            damage.into_iter().for_each(|what| self.put("<li>{}</li>", &[what]));
            self.put("</ul>", &[]);
            self.left_out(damage_left_out);
        }
        if let Some(verified) = &figures.verified {
            self.violations(verified);
        }
        self.put("<p>What to do: keep the file; restore a backup, or let <code>keystead repair</code> save what is ", &[]);
        self.put("left.</p></section>", &[]);
    }

    fn violations(&mut self, verified: &Verified) {
        if verified.violations.is_empty() {
            return;
        }
        let shown = verified.violations.iter().take(self.about.rows);
        let left_out = verified.violations.len() - shown.len();
        self.put("<p>Promises that do not hold:</p><ul class=\"findings\">", &[]);
        for violation in shown {
            self.put("<li>invariant {}: {}", &[&violation.invariant, &violation.what]);
            violation.rows.iter().for_each(|row| self.put("<br><code>{}</code>", &[row]));
            self.put("</li>", &[]);
        }
        self.put("</ul>", &[]);
        self.left_out(left_out as u64 + verified.violations_not_kept);
    }

    fn store(&mut self) {
        let figures = self.figures;
        let position = figures.position.to_string();
        let history = match &figures.history {
            None => "none".to_owned(),
            Some(history) if history.floor.number() == 0 => "whole".to_owned(),
            Some(history) => format!("behind commit {}", history.floor),
        };
        let facts = [
            ("place", self.about.location.to_string()),
            ("size of the file", self.about.bytes.map_or_else(|| "no file".to_owned(), show_bytes)),
            ("incarnation", position.split('-').next().unwrap_or_default().to_owned()),
            ("position", position.clone()),
            ("read", self.moment()),
            ("history", history),
            ("aliases are unique in a", figures.alias_scope.as_str().to_owned()),
            ("region", figures.region.to_string()),
            ("made", format!("{} by keystead {}", show_time(figures.now), env!("CARGO_PKG_VERSION"))),
        ];
        self.put("<section id=\"store\" class=\"full\"><h2>The store</h2><dl class=\"about\">", &[]);
        for (name, fact) in &facts {
            self.put("<dt>{}</dt><dd><bdi>{}</bdi></dd>", &[name, fact]);
        }
        self.put("</dl></section>", &[]);
    }
}

const STATES: Words = Words { id: "states", name: "Keys by state", of: "state", unit: "keys" };
const SPECS: Words = Words { id: "specs", name: "Keys by spec", of: "spec", unit: "keys" };
const GROWTH: Words = Words { id: "growth", name: "Keys and aliases over time", of: "time", unit: "keys" };
const CHANGES: Words = Words { id: "changes", name: "Changes over time", of: "time", unit: "changes" };
const OPERATIONS: Words =
    Words { id: "operations", name: "Changes by operation", of: "operation", unit: "changes" };
const DAYS_LEFT: Words =
    Words { id: "days-left", name: "Keys by the time to their deletion", of: "due", unit: "keys" };
const DAYS_OLD: Words =
    Words { id: "days-old", name: "Keys by the age of their material", of: "age", unit: "keys" };
const ALIASES: Words =
    Words { id: "aliases-of-a-key", name: "Keys by their number of aliases", of: "aliases", unit: "keys" };

fn owned(classes: &Classes) -> Vec<(String, u64)> {
    classes.named().map(|(name, number)| (name.to_owned(), number)).collect()
}

/// A text that is not too long for a table.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
