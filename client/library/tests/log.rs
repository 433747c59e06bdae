//! What the library writes to the log about HSMs: a loss once, and which HSM answered which request.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod peer;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use hsm_client::Cluster;
use peer::hsms::Hsms;
use peer::{echo, echoed};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<(Level, String)>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push_str(&format!(" {}={value:?}", field.name()));
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("hsm_client") || metadata.target() == hsm_protocol::trace::TARGET
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push((*event.metadata().level(), text.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Lines {
    fn take(&self, level: Level) -> Vec<String> {
        let mut lines = self.0.lock().unwrap();
        let (taken, rest): (Vec<_>, Vec<_>) = lines.drain(..).partition(|(found, _)| *found == level);
        *lines = rest;
        taken.into_iter().map(|(_, text)| text).collect()
    }
}

#[test]
fn a_loss_is_one_warning_and_each_answer_names_its_hsm_and_request() {
    let lines = Lines::default();
    let mut hsms = Hsms::new(2);
    let cluster = Cluster::new(hsms.configuration());
    tracing::subscriber::with_default(lines.clone(), || {
        let call = || assert_eq!(echoed(cluster.call(None, &|_| echo(b"x")).unwrap()), b"x");
        (0..10).for_each(|_| call());
        let served = hsms.served();
        let victim = usize::from(served[1] > served[0]);
        let name = if victim == 0 { "hsm=01010101" } else { "hsm=02020202" };
        let answers = lines.take(Level::DEBUG);
        assert!(answers.iter().any(|line| line.contains(name) && line.contains("trace=")), "{answers:?}");
        assert!(lines.take(Level::WARN).is_empty());
        hsms.kill(victim);
        for _ in 0..20 {
            call();
            std::thread::sleep(std::time::Duration::from_millis(60));
        }
        let warnings = lines.take(Level::WARN);
        assert!(warnings.len() == 1 && warnings[0].contains(name) && warnings[0].contains("lost"), "{warnings:?}");
        hsms.restart(victim);
        for _ in 0..80 {
            call();
            std::thread::sleep(std::time::Duration::from_millis(60));
        }
        let news = lines.take(Level::INFO);
        assert!(news.iter().any(|line| line.contains(name) && line.contains("serves again")), "{news:?}");
        assert!(lines.take(Level::WARN).is_empty());
    });
}
