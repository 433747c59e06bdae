//! A state that is sent while something goes wrong: it goes on with what the receiver has.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hsm_core::{MemberKind, NodeId};
use hsm_replication::{Snapshots, limits};

use crate::support::{Yard, is_done, propose, start, version};

/// Changes that each leave an audit record: some twenty-five ranges.
const CHANGES: u32 = 24_000;

/// Octets a second: a range takes a second and more.
const SLOW: u64 = 100 * 1024;

struct Transfer {
    yard: Yard,
    id: u64,
}

impl Transfer {
    /// Three HSMs with a state whose log is gone, and a fourth that begins to get it over a slow line.
    async fn begin() -> Self {
        let mut yard = Yard::of(3).await;
        let leader = yard.leader().await;
        let mut made = 0;
        while made < CHANGES {
            let some = 400;
            let waiting: Vec<_> = (0..some)
                .map(|number| {
                    let text = (made + number).to_string();
                    start(&yard.nodes[leader], version(&yard.machines[leader], &text))
                })
                .collect();
            for outcome in waiting {
                assert!(is_done(&outcome.await.unwrap()));
            }
            made += some;
        }
        // Entries one by one, until the log of before is gone.
        for number in 0..1_200 {
            assert!(is_done(&propose(&yard.nodes[leader], version(&yard.machines[leader], &number.to_string())).await));
        }
        yard.level().await;
        assert!(yard.nodes[leader].status().purged_entry.is_some());
        yard.wires.octets_per_second.store(SLOW, Ordering::SeqCst);
        let id = yard.join(MemberKind::Hsm).await;
        Self { yard, id }
    }

    fn sending(&self) -> Option<(usize, f64)> {
        let share = |place: usize| self.yard.nodes[place].status().snapshots.sending.get(&self.id).copied();
        let rows = |number: u64| f64::from(u32::try_from(number).unwrap());
        (0..self.yard.nodes.len())
            .find_map(|place| share(place).map(|share| (place, rows(share.rows) / rows(share.total.max(1)))))
    }

    async fn until_sent(&self, part: f64) -> usize {
        self.yard.until("a part is sent", |_| self.sending().is_some_and(|(_, sent)| sent >= part)).await;
        self.sending().unwrap().0
    }

    fn snapshots(&self, place: usize) -> Snapshots {
        self.yard.nodes[place].status().snapshots
    }

    fn place_of(&self, id: u64) -> usize {
        self.yard.machines.iter().position(|machine| machine.id() == id).unwrap()
    }

    /// Waits until the fourth has the state, and gives the octets that all who are there sent.
    async fn end(&self, before: u64) -> u64 {
        let newcomer = self.place_of(self.id);
        let has_all = |yard: &Yard| {
            yard.nodes[newcomer].read().members().contains_key(&NodeId(self.id))
                && yard.nodes[newcomer].status().snapshots.installed > 0
        };
        self.yard.until("it has the state", has_all).await;
        self.yard.level().await;
        before + (0..self.yard.nodes.len()).map(|place| self.snapshots(place).sent_bytes).sum::<u64>()
    }

    /// Ends a node as a power cut would.
    async fn kill(&mut self, place: usize) {
        // What is on the disk at this moment, and nothing that an orderly stop would add.
        let image = self.yard.machines[place].disk.copy();
        let node = self.yard.nodes[place].clone();
        self.yard.machines[place].stop(node).await;
        self.yard.machines[place].disk = image;
    }

    async fn revive(&mut self, place: usize) {
        self.yard.nodes[place] = self.yard.machines[place].open().await;
    }
}

/// What an undisturbed transfer sends, and the largest range by the way.
async fn undisturbed() -> (u64, u64) {
    let transfer = Transfer::begin().await;
    let whole = transfer.end(0).await;
    // A range has 1,024 rows on average and 1,597 at most.
    (whole, whole * 8 * limits::RANGE_ROWS / 5 / u64::from(CHANGES))
}

#[tokio::test(start_paused = true)]
async fn a_cut_line_costs_the_range_that_was_on_its_way() {
    let (whole, range) = undisturbed().await;
    let transfer = Transfer::begin().await;
    for part in [0.2, 0.5, 0.8] {
        let sender = transfer.until_sent(part).await;
        let (sender, others) = (transfer.yard.machines[sender].id(), [transfer.id]);
        transfer.yard.wires.isolate(sender, &others);
        // Longer than the sender tries: it begins another transfer.
        tokio::time::sleep(limits::RANGE_TIMEOUT * (limits::CHUNK_TRIES + 1)).await;
        transfer.yard.wires.heal();
    }
    let sent = transfer.end(0).await;
    assert!(sent <= whole + 5 * range, "{sent} octets instead of {whole}, a range has up to {range}");
    let spared: u64 = (0..3).map(|place| transfer.snapshots(place).spared_bytes).sum();
    assert!(spared > whole / 2, "{spared} of {whole}");
}

#[tokio::test(start_paused = true)]
async fn another_leader_goes_on_where_the_first_was() {
    let (whole, range) = undisturbed().await;
    let mut transfer = Transfer::begin().await;
    let sender = transfer.until_sent(0.6).await;
    let before = transfer.snapshots(sender).sent_bytes;
    transfer.kill(sender).await;
    // It has nothing more to say until it is opened again.
    let newcomer = transfer.place_of(transfer.id);
    transfer.yard.until("the state is there", |yard| yard.nodes[newcomer].status().snapshots.installed > 0).await;
    transfer.revive(sender).await;
    let sent = transfer.end(before).await;
    assert!(sent <= whole + 3 * range, "{sent} octets instead of {whole}, a range has up to {range}");
    assert!(transfer.snapshots(newcomer).held_bytes > whole / 3);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_killed_keeps_what_was_on_its_disk() {
    let (whole, range) = undisturbed().await;
    let mut transfer = Transfer::begin().await;
    for part in [0.5, 0.9] {
        transfer.until_sent(part).await;
        let newcomer = transfer.place_of(transfer.id);
        transfer.kill(newcomer).await;
        transfer.revive(newcomer).await;
        // Progress begins at nothing again.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let sent = transfer.end(0).await;
    // What was not flushed, and the one that was on its way, twice. Without what was kept it would be 2.4 times the whole.
    let lost = 2 * (u64::from(limits::RANGES_PER_FLUSH) + 1) * range;
    assert!(sent <= whole + lost && sent < 2 * whole, "{sent} octets instead of {whole}, a range has up to {range}");
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_is_restarted_sends_what_is_missing() {
    let (whole, range) = undisturbed().await;
    let mut transfer = Transfer::begin().await;
    let sender = transfer.until_sent(0.5).await;
    let before = transfer.snapshots(sender).sent_bytes;
    transfer.kill(sender).await;
    transfer.revive(sender).await;
    let sent = transfer.end(before).await;
    assert!(sent <= whole + 3 * range, "{sent} octets instead of {whole}, a range has up to {range}");
}

#[tokio::test(start_paused = true)]
async fn writing_goes_on_while_a_state_is_sent_and_the_log_behind_it_is_kept_for_the_receiver() {
    let transfer = Transfer::begin().await;
    let sender = transfer.until_sent(0.1).await;
    // More entries than the log would keep.
    for number in 0..1_500 {
        let change = version(&transfer.yard.machines[sender], &number.to_string());
        assert!(is_done(&propose(&transfer.yard.nodes[sender], change).await));
    }
    assert!(transfer.sending().is_some(), "it is still being sent");
    transfer.end(0).await;
    let newcomer = transfer.place_of(transfer.id);
    assert_eq!(transfer.snapshots(newcomer).installed, 1, "the log behind the state was there");
    // And goes again.
    transfer.yard.wires.octets_per_second.store(0, Ordering::SeqCst);
    tokio::time::sleep(limits::HELD_LOG_AFTER * 2).await;
    let leader = transfer.yard.leader().await;
    for number in 0..20 {
        let change = version(&transfer.yard.machines[leader], &number.to_string());
        assert!(is_done(&propose(&transfer.yard.nodes[leader], change).await));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = transfer.yard.nodes[leader].status();
    let kept = status.last_entry - status.purged_entry.unwrap_or(0);
    assert!(kept < 2 * (limits::ENTRIES_KEPT + limits::ENTRIES_PER_SNAPSHOT), "{kept} entries are kept");
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_program_is_older_gets_the_state_in_chunks() {
    let mut yard = Yard::of(1).await;
    yard.wires.version.store(2, Ordering::SeqCst);
    for number in 0..1_200 {
        assert!(is_done(&propose(&yard.nodes[0], version(&yard.machines[0], &number.to_string())).await));
    }
    yard.join(MemberKind::Hsm).await;
    yard.level().await;
    yard.until("it takes commands", |yard| yard.nodes[1].status().ready.is_ok()).await;
    assert_eq!(yard.nodes[0].status().snapshots.sent_bytes, 0);
    assert_eq!(yard.nodes[1].status().snapshots.installed, 1);
}
