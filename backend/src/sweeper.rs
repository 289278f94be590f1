//! The task that purges keys which are due, expires material, and forgets old outcomes and history.

use std::sync::Arc;

use keystead::{AsyncQueue, Scope, Swept, Timestamp};
use tokio::time::{MissedTickBehavior, interval};

use crate::error::Refusal;
use crate::state::App;

/// The steps of one call, after which other writers come first.
const STEPS: usize = 100;

/// Sweeps again and again, for ever.
pub(crate) async fn run(app: Arc<App>) {
    let mut ticks = interval(app.limits.sweep_time());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if sweep(&app).await.is_err() {
            // The cause is in the log; the next tick tries again.
            app.metrics.sweeps_failed.inc();
        }
    }
}

/// Sweeps the whole store once, in small calls.
async fn sweep(app: &Arc<App>) -> Result<(), Refusal> {
    let now = Timestamp::now();
    let mut after: Option<Scope> = None;
    loop {
        let from = after.take();
        let swept = app
            .blocking(AsyncQueue::Writes, move |store| Ok(store.sweep(now, STEPS, from.as_ref())?))
            .await?;
        count(app, &swept);
        if swept.done {
            return Ok(());
        }
        after = swept.after;
    }
}

/// Counts what a call did, and logs the damage that it passed over: its operator's to see to.
fn count(app: &App, swept: &Swept) {
    for (scope, error) in &swept.failures {
        app.metrics.sweep_damages.inc();
        tracing::error!(domain = %scope.domain(), project = %scope.project(), %error, "a sweep passed over damage");
    }
    app.metrics.keys_purged.inc_by(swept.keys_purged);
    app.metrics.materials_expired.inc_by(swept.materials_expired);
    app.metrics.outcomes_pruned.inc_by(swept.outcomes_pruned);
    if swept.keys_purged > 0 || swept.materials_expired > 0 {
        tracing::info!(keys_purged = swept.keys_purged, materials_expired = swept.materials_expired, "swept");
    }
}

#[cfg(test)]
mod tests {
    use keystead::{Error, NewKey, PendingDays, Request};

    use super::*;
    use crate::config::Config;
    use crate::state::store_options;

    #[tokio::test]
    async fn a_key_that_is_due_is_purged_and_no_other() {
        let config = Config::parse("region = \"cn-north-7\"\naccount = []").unwrap();
        let store = store_options(&config).in_memory().unwrap();
        let app = Arc::new(App::new(config, store.clone()).unwrap());
        let scope = Scope::new("domain", "project").unwrap();
        let (due, later) = (NewKey::new("due").unwrap(), NewKey::new("later").unwrap());
        for (new, time) in [(&due, Timestamp::from_millis(0)), (&later, Timestamp::now())] {
            let request = Request::new(&scope).at(time);
            store.write(&request, |txn| txn.create_key(new)).unwrap();
            let days = PendingDays::new(7).unwrap();
            store.write(&request, |txn| txn.schedule_deletion(new.key_id, days)).unwrap();
        }
        sweep(&app).await.unwrap();
        let of = |new: &NewKey| store.read(&scope, |snap| snap.key(new.key_id));
        assert!(matches!(of(&due), Err(Error::KeyNotFound { .. })));
        assert!(of(&later).is_ok());
        assert_eq!(app.metrics.keys_purged.get(), 1);
        assert_eq!(app.metrics.sweep_damages.get(), 0);
    }

    #[test]
    fn damage_that_was_passed_over_is_counted() {
        let config = Config::parse("region = \"cn-north-7\"\naccount = []").unwrap();
        let store = store_options(&config).in_memory().unwrap();
        let app = App::new(config, store).unwrap();
        let mut swept = Swept::default();
        let scope = Scope::new("domain", "project").unwrap();
        swept.failures = vec![
            (scope.clone(), Error::Corrupted("a row".into())),
            (scope, Error::Corrupted("another".into())),
        ];
        count(&app, &swept);
        let text = String::from_utf8(app.metrics.text().unwrap()).unwrap();
        assert!(text.contains("\nkms_sweep_damages_total 2\n"), "{text}");
    }
}
