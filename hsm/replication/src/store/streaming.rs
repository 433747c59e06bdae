//! Tests of a state on its way in ranges: what is sent again after what, and what is refused.

use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::testing::blank_ent;
use redb::{ReadableDatabase, StorageBackend, backends::InMemoryBackend};
use serde_bytes::{ByteArray, ByteBuf};

use super::incoming::{Incoming, Taken};
use super::ranges::{END, Offer, RangeRefusal, Ranges};
use super::rows::{INCOMING_STATE, Progress, STATE, state_key};
use super::snapshot::{ChunkRow, SnapshotData};
use super::tests::{MemoryDisk, key, open, parts};
use super::{Changes, Store, Work};
use crate::limits;
use crate::types::{SnapshotMeta, Types};
use hsm_core::{ObjectHandle, Row};

const ROWS: u64 = 30_000;
const SENDER: u64 = 7;

/// Rows of payloads: what each holds says `value`.
fn payloads(rows: std::ops::Range<u64>, index: u64, value: impl Fn(u64) -> Vec<u8>) -> Changes {
    let row = |handle: u64| (state_key(&Row::Payload(ObjectHandle(handle))), Some(value(handle)));
    let last = blank_ent::<Types>(1, SENDER, index).log_id;
    let progress = Progress { last: Some(last), index: hsm_core::Index(index), ..Progress::default() };
    Changes { rows: rows.map(row).collect(), audit: Vec::new(), progress: Some(progress) }
}

fn plain(handle: u64) -> Vec<u8> {
    handle.to_be_bytes().repeat(8)
}

fn store() -> Arc<Store> {
    open(&MemoryDisk::default(), &key(), Some(SENDER)).unwrap().store
}

/// The disk as it is for whoever comes after a kill.
fn killed(disk: &MemoryDisk) -> MemoryDisk {
    let copy = InMemoryBackend::new();
    let mut octets = vec![0; usize::try_from(disk.len().unwrap()).unwrap()];
    disk.read(0, &mut octets).unwrap();
    copy.set_len(octets.len() as u64).unwrap();
    copy.write(0, &octets).unwrap();
    MemoryDisk::of(copy)
}

fn ranges(store: &Arc<Store>) -> (SnapshotMeta, Ranges) {
    let (meta, data) = store.snapshot().unwrap().unwrap();
    (meta, Ranges::new(data.into_reader().unwrap()).unwrap())
}

/// Ranges that were sent and that were held, until the whole is there or so many were gone through.
fn transfer(from: &Arc<Store>, sender: u64, incoming: &Incoming, to: &Store, most: usize) -> (usize, usize, bool) {
    let (meta, mut ranges) = ranges(from);
    let (mut sent, mut held) = (0, 0);
    while sent + held < most {
        let (offer, rows) = ranges.next_range().unwrap();
        let mut taken = incoming.offer(to, sender, &meta, &offer).unwrap();
        if matches!(taken, Taken::Wanted) {
            sent += 1;
            taken = incoming.rows(to, sender, &meta, (offer.transfer, offer.number), &rows).unwrap();
        } else {
            held += 1;
        }
        match taken {
            Taken::Held | Taken::Stored => {}
            Taken::Whole(progress) => {
                let prepared = incoming.prepare(to, &progress).unwrap();
                to.install(&progress, Some(prepared.unwrap())).unwrap();
                return (sent, held, true);
            }
            Taken::Refused(refusal) => panic!("{refusal}"),
            Taken::Wanted => panic!("wanted twice"),
        }
    }
    (sent, held, false)
}

fn content(store: &Store) -> Vec<(Vec<u8>, Vec<u8>)> {
    store.flush_pending().unwrap();
    let rows = store.with_database(|database| {
        let table = database.begin_read()?.open_table(STATE)?;
        let rows = table.range::<&[u8]>(..)?;
        rows.map(|row| {
            let (key, sealed) = row?;
            Ok((key.value().to_vec(), store.unseal("state", key.value(), sealed.value())?))
        })
        .collect()
    });
    rows.unwrap()
}

#[test]
fn a_transfer_that_is_cut_anywhere_goes_on_with_what_is_durable_whoever_sends_then() {
    let (first, second) = (store(), store());
    first.pend(payloads(0..ROWS, 9, plain));
    second.pend(payloads(0..ROWS, 9, plain));
    let whole = transfer(&first, SENDER, &Incoming::default(), &store(), usize::MAX);
    assert!(whole.0 > 20 && whole.2, "{whole:?}");
    let flush = limits::RANGES_PER_FLUSH as usize;
    for cut in [0, 1, flush, flush + 1, whole.0 / 2, whole.0 - 1] {
        // The connection is cut, or another one leads: the receiver goes on.
        let to = store();
        let incoming = Incoming::default();
        assert_eq!(transfer(&first, SENDER, &incoming, &to, cut), (cut, 0, false));
        assert_eq!(transfer(&second, 8, &incoming, &to, usize::MAX), (whole.0 - cut, cut, true), "cut at {cut}");
        assert!(content(&to) == content(&first));
        // The receiver is killed: at most what was not flushed comes again.
        let (disk, key) = (MemoryDisk::default(), key());
        let to = open(&disk, &key, Some(9)).unwrap().store;
        assert_eq!(transfer(&first, SENDER, &Incoming::default(), &to, cut), (cut, 0, false));
        let to = open(&killed(&disk), &key, None).unwrap().store;
        let (sent, held, installed) = transfer(&second, 8, &Incoming::default(), &to, usize::MAX);
        assert_eq!(held, cut - cut % flush, "cut at {cut}");
        assert!(installed && sent + held == whole.0, "{sent} and {held} of {whole:?}");
        assert!(content(&to) == content(&first));
    }
}

#[test]
fn rows_that_changed_meanwhile_make_only_their_ranges_be_sent_again() {
    let (first, to, incoming) = (store(), store(), Incoming::default());
    first.pend(payloads(0..ROWS, 9, plain));
    let (sent, ..) = transfer(&first, SENDER, &incoming, &to, 20);
    assert_eq!(sent, 20);
    // Three rows next to each other change, one comes, one goes.
    first.pend(payloads(5_000..5_003, 10, |_| vec![1; 70]));
    first.pend(payloads(ROWS..ROWS + 1, 11, plain));
    let mut gone = payloads(0..0, 12, plain);
    gone.rows.insert(state_key(&Row::Payload(ObjectHandle(9))), None);
    first.pend(gone);
    let (again, held, installed) = transfer(&first, SENDER, &incoming, &to, usize::MAX);
    assert!(installed && (17..=20).contains(&held), "{again} sent, {held} held");
    assert!(content(&to) == content(&first));
    // A member that has a state and fell behind is sent what changed since.
    first.pend(payloads(7_000..7_001, 13, |_| vec![2; 70]));
    let (again, held, installed) = transfer(&first, SENDER, &incoming, &to, usize::MAX);
    assert!(installed && again == 1 && held > 20, "{again} sent, {held} held");
    assert!(content(&to) == content(&first));
}

/// A receiver that was sent two ranges and offered the third.
struct Third {
    to: Arc<Store>,
    incoming: Incoming,
    meta: SnapshotMeta,
    earlier: Vec<(Offer, Vec<ChunkRow>)>,
    offer: Offer,
    rows: Vec<ChunkRow>,
}

impl Third {
    fn of(from: &Arc<Store>, to: Arc<Store>) -> Self {
        let (meta, mut ranges) = ranges(from);
        let incoming = Incoming::default();
        let earlier: Vec<_> = (0..2).map(|_| ranges.next_range().unwrap()).collect();
        for (offer, rows) in &earlier {
            assert!(matches!(incoming.offer(&to, SENDER, &meta, offer).unwrap(), Taken::Wanted));
            let which = (offer.transfer, offer.number);
            assert!(matches!(incoming.rows(&to, SENDER, &meta, which, rows).unwrap(), Taken::Stored));
        }
        let (offer, rows) = ranges.next_range().unwrap();
        Self { to, incoming, meta, earlier, offer, rows }
    }

    fn offered(&self, offer: &Offer) -> Option<RangeRefusal> {
        refusal(self.incoming.offer(&self.to, SENDER, &self.meta, offer).unwrap())
    }

    fn sent(&self, which: (u64, u64), rows: &[ChunkRow]) -> Option<RangeRefusal> {
        refusal(self.incoming.rows(&self.to, SENDER, &self.meta, which, rows).unwrap())
    }

    fn which(&self) -> (u64, u64) {
        (self.offer.transfer, self.offer.number)
    }
}

fn refusal(taken: Taken) -> Option<RangeRefusal> {
    if let Taken::Refused(refusal) = taken { Some(refusal) } else { None }
}

fn third() -> Third {
    let (from, to) = (store(), store());
    from.pend(payloads(0..ROWS, 9, plain));
    to.pend(payloads(0..3, 2, |_| vec![9; 9]));
    Third::of(&from, to)
}

#[test]
fn an_offer_that_cannot_be_is_refused_by_name_and_the_right_one_is_taken_after_it() {
    use RangeRefusal::{Misplaced, OtherCount, OutOfOrder, TooLarge};
    let third = third();
    type Change = fn(&mut Offer);
    let wrong: [(&str, Change, RangeRefusal); 10] = [
        ("of another transfer", |offer| offer.transfer ^= 1, OutOfOrder),
        ("one too far", |offer| offer.number += 1, OutOfOrder),
        ("long gone", |offer| (offer.number, offer.after) = (1, offer.after.clone()), OutOfOrder),
        ("with a gap before it", |offer| offer.after.push(0), OutOfOrder),
        ("backwards", |offer| std::mem::swap(&mut offer.after, &mut offer.to), Misplaced),
        ("a first one that is none", |offer| offer.after = ByteBuf::new(), Misplaced),
        ("without an end at the end", |offer| offer.to = ByteBuf::from(END), Misplaced),
        ("too large", |offer| offer.bytes = limits::RANGE_BYTES_MAXIMUM as u64 + 1, TooLarge),
        ("of more rows than there are", |offer| (offer.rows, offer.bytes) = (ROWS, ROWS), OtherCount),
        ("of another total", |offer| offer.total += 1, OtherCount),
    ];
    for (what, change, expected) in wrong {
        let mut offer = third.offer.clone();
        change(&mut offer);
        assert_eq!(third.offered(&offer), Some(expected), "{what}");
    }
    let another = SnapshotMeta { snapshot_id: "older".to_owned(), ..third.meta.clone() };
    let of_another = third.incoming.offer(&third.to, SENDER, &another, &third.offer).unwrap();
    assert_eq!(refusal(of_another), Some(OutOfOrder), "of another state");
    let of_another = third.incoming.offer(&third.to, 8, &third.meta, &third.offer).unwrap();
    assert_eq!(refusal(of_another), Some(OutOfOrder), "of another sender");
    assert_eq!(third.sent(third.which(), &third.rows), Some(OutOfOrder), "rows that were not offered");
    assert_eq!(third.offered(&third.offer), None);
    assert_eq!(third.sent(third.which(), &third.rows), None);
    assert_eq!(content(&third.to).len(), 3, "the state in use is as it was");
}

#[test]
fn rows_that_are_not_the_range_are_refused_by_name_and_nothing_is_lost() {
    use RangeRefusal::{Misplaced, OtherCount, OtherHash, OutOfOrder, TooLarge};
    let third = third();
    assert_eq!(third.offered(&third.offer), None);
    let rows = &third.rows;
    let forged = |at: usize| {
        let mut rows = rows.clone();
        if let ChunkRow::State(_, value) = &mut rows[at] {
            value[0] ^= 1;
        }
        rows
    };
    let mut swapped = rows.clone();
    swapped.swap(3, 4);
    let mut elsewhere = rows.clone();
    elsewhere[0] = third.earlier[0].1[0].clone();
    let huge = vec![ChunkRow::Audit(1, ByteBuf::from(vec![0; limits::RANGE_BYTES_MAXIMUM]))];
    let cases: [(&str, Vec<ChunkRow>, RangeRefusal); 7] = [
        ("forged", forged(0), OtherHash),
        ("forged at the end", forged(rows.len() - 1), OtherHash),
        ("truncated", rows[..rows.len() - 1].to_vec(), OtherCount),
        ("none", Vec::new(), OtherCount),
        ("out of order", swapped, Misplaced),
        ("from an earlier range", elsewhere, Misplaced),
        ("too large", huge, TooLarge),
    ];
    for (what, rows, expected) in cases {
        assert_eq!(third.sent(third.which(), &rows), Some(expected), "{what}");
    }
    let (transfer, number) = third.which();
    assert_eq!(third.sent((transfer ^ 1, number), rows), Some(OutOfOrder), "replayed from another transfer");
    assert_eq!(third.sent((transfer, number + 1), rows), Some(OutOfOrder), "too early");
    assert_eq!(third.sent((transfer, 0), &third.earlier[0].1), Some(OutOfOrder), "replayed");
    assert_eq!(third.sent(third.which(), rows), None);
    assert_eq!(content(&third.to).len(), 3, "the state in use is as it was");
}

#[test]
fn ranges_that_are_not_the_state_that_was_offered_or_none_at_all_are_not_installed() {
    let from = store();
    from.pend(payloads(1..11, 9, plain));
    type Change = fn(&mut Offer);
    let changes: [(Change, RangeRefusal); 4] = [
        (|offer| offer.end.as_mut().unwrap().1 = ByteArray::new([0; 48]), RangeRefusal::OtherState),
        (|offer| offer.end.as_mut().unwrap().0.last = None, RangeRefusal::OtherState),
        (|offer| offer.total += 1, RangeRefusal::OtherCount),
        (|offer| offer.total -= 1, RangeRefusal::OtherCount),
    ];
    for (change, expected) in changes {
        let (meta, mut ranges) = ranges(&from);
        let (mut offer, rows) = ranges.next_range().unwrap();
        change(&mut offer);
        let (to, incoming) = (store(), Incoming::default());
        let mut taken = incoming.offer(&to, SENDER, &meta, &offer).unwrap();
        if matches!(taken, Taken::Wanted) {
            taken = incoming.rows(&to, SENDER, &meta, (offer.transfer, 0), &rows).unwrap();
        }
        assert_eq!(refusal(taken), Some(expected));
    }
}

#[tokio::test]
async fn a_whole_state_that_cannot_be_loaded_is_refused_and_the_one_in_use_stays() {
    let from = store();
    let mut strange = payloads(1..11, 9, plain);
    // No row has such a key.
    strange.rows.insert(vec![0x70], Some(vec![1]));
    from.pend(strange);
    let (meta, mut ranges) = ranges(&from);
    let (offer, rows) = ranges.next_range().unwrap();
    let (_log, mut machine) = parts(open(&MemoryDisk::default(), &key(), Some(9)).unwrap());
    machine.store.pend(payloads(0..3, 2, |_| vec![9; 9]));
    let (to, incoming) = (machine.store.clone(), Incoming::default());
    assert!(matches!(incoming.offer(&to, SENDER, &meta, &offer).unwrap(), Taken::Wanted));
    let Taken::Whole(progress) = incoming.rows(&to, SENDER, &meta, (offer.transfer, 0), &rows).unwrap() else {
        panic!("it was the only range")
    };
    assert!(incoming.prepare(&to, &progress).unwrap().is_none());
    let again = incoming.offer(&to, SENDER, &meta, &offer).unwrap();
    assert_eq!(refusal(again), Some(RangeRefusal::Unsound));
    // Nothing that a leader says installs it after that.
    let data = Box::new(SnapshotData::received(progress, None));
    assert!(machine.install_snapshot(&meta, data).await.is_err());
    assert_eq!(content(&to).len(), 3);
}

#[test]
fn a_row_that_was_put_back_on_the_receivers_disk_makes_its_range_be_sent_again() {
    let (from, to, incoming) = (store(), store(), Incoming::default());
    from.pend(payloads(0..ROWS, 9, |_| vec![1; 64]));
    transfer(&from, SENDER, &incoming, &to, 10);
    let place = state_key(&Row::Payload(ObjectHandle(4_000)));
    let older = to.seal("state", &place, &[7; 64]).unwrap();
    to.with_database(|database| {
        let transaction = database.begin_write()?;
        transaction.open_table(INCOMING_STATE)?.insert(place.as_slice(), older.as_slice())?;
        Ok(transaction.commit()?)
    })
    .unwrap();
    let (_, held, installed) = transfer(&from, SENDER, &Incoming::default(), &to, usize::MAX);
    assert!(installed && held == 9, "{held}");
    assert!(content(&to) == content(&from));
}

#[test]
fn a_range_is_bounded_whatever_the_rows_and_so_is_what_both_sides_hold_of_it() {
    let from = store();
    // Rows of the largest size, and a hundred thousand of the smallest.
    from.pend(payloads(0..40, 9, |_| vec![3; limits::ENTRY_BYTES]));
    from.pend(payloads(1_000..101_000, 10, |_| vec![4]));
    from.commit(&Work::default()).unwrap();
    let (_, mut ranges) = ranges(&from);
    let (mut rows, mut count) = (0, 0);
    loop {
        let (offer, read) = ranges.next_range().unwrap();
        assert!(offer.bytes <= limits::RANGE_BYTES_MAXIMUM as u64, "{} octets", offer.bytes);
        assert!(offer.rows <= 4 * limits::RANGE_ROWS, "{} rows", offer.rows);
        assert!(read.len() as u64 == offer.rows);
        rows += offer.rows;
        count += 1;
        if offer.end.is_some() {
            break;
        }
    }
    assert_eq!(rows, ranges.total());
    assert!((60..200).contains(&count), "{count} ranges");
}

#[test]
fn what_nobody_goes_on_sending_is_removed_by_and_by() {
    let (from, to, incoming) = (store(), store(), Incoming::default());
    from.pend(payloads(0..ROWS, 9, plain));
    transfer(&from, SENDER, &incoming, &to, 10);
    let mut slices = 0;
    while incoming.give_up(&to).unwrap() {
        slices += 1;
    }
    assert!((2..20).contains(&slices), "{slices}");
    let (_, held, installed) = transfer(&from, SENDER, &incoming, &to, usize::MAX);
    assert!(installed && held == 0);
}
