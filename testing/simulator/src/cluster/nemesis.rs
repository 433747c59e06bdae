//! Breaks things, as the plan allows, until its time is over.
//!
//! Its budget: crashes, pauses, cuts, clocks and failing disks at every machine, also at all of them at once. What makes a
//! disk forget (lies, rot, an older copy, an empty one) or takes a machine out of the cluster happens to one machine at a
//! time, and only while a majority of the voters is left that forgot nothing.

use std::sync::Arc;
use std::time::Duration;

use hsm_core::MemberKind;
use hsm_replication::Standing;

use crate::cluster::Cluster;
use crate::cluster::machine::Machine;

/// Three of these pass without another fault around the copy that a disk is rolled back to: more than a second of pulses,
/// in which every member writes down what it knows of the others.
const TRUCE: Duration = Duration::from_millis(2_500);

/// A member whose state differs has stopped after so many steps: several pulses.
const STOP_STEPS: usize = 100;

/// See [`STOP_STEPS`].
const STOP_STEP: Duration = Duration::from_millis(100);

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Crash,
    Torn,
    Blackout,
    Pause,
    Cut,
    Clock,
    Disk,
    Damage,
    Replace,
}

impl Cluster {
    /// Injects faults for the time of the plan.
    pub async fn torment(self: Arc<Self>) {
        let until = tokio::time::Instant::now() + self.plan.faults_for;
        while tokio::time::Instant::now() < until {
            let wait = 1 + self.random.below(2 * self.plan.fault_every);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            if let Some(blow) = self.draw()
                && self.truce.try_lock().is_ok()
            {
                self.strike(blow);
            }
        }
    }

    fn draw(&self) -> Option<Blow> {
        let weights = self.plan.weights;
        let blows = [
            (Blow::Crash, weights.crash),
            (Blow::Torn, weights.torn),
            (Blow::Blackout, weights.blackout),
            (Blow::Pause, weights.pause),
            (Blow::Cut, weights.cut),
            (Blow::Clock, weights.clock),
            (Blow::Disk, weights.disk),
            (Blow::Damage, weights.damage),
            (Blow::Replace, weights.replace),
        ];
        let mut drawn = self.random.below(blows.iter().map(|(_, weight)| weight).sum());
        for (blow, weight) in blows {
            match drawn.checked_sub(weight) {
                Some(rest) => drawn = rest,
                None => return Some(blow),
            }
        }
        None
    }

    fn strike(self: &Arc<Self>, blow: Blow) {
        let machine = self.any_member();
        let cluster = self.clone();
        match blow {
            Blow::Crash => drop(tokio::spawn(cluster.power_cycle(machine, |_| ()))),
            Blow::Torn => {
                let operations = self.random.below(60);
                machine.disk.cut_power_in(operations);
                self.trace.tell(|| format!("power at {} goes after {operations} operations", machine.place));
            }
            Blow::Blackout => {
                self.trace.tell(|| "power goes everywhere".to_owned());
                for machine in self.members() {
                    drop(tokio::spawn(self.clone().power_cycle(machine, |_| ())));
                }
            }
            Blow::Pause => drop(tokio::spawn(cluster.pause(machine))),
            Blow::Cut => drop(tokio::spawn(cluster.cut_links(machine.place))),
            Blow::Clock => {
                let jump = [-86_400_000, -3_000, 2_000, 3_600_000, 31_536_000_000][self.random.place_below(5)];
                machine.clock.jump(jump);
                self.trace.tell(|| format!("the clock at {} jumps by {jump} ms", machine.place));
            }
            Blow::Disk => self.hurt_disk(machine),
            Blow::Damage => drop(tokio::spawn(cluster.damage(machine))),
            Blow::Replace => drop(tokio::spawn(cluster.replace(machine))),
        }
    }

    /// Off, and on again; in between something is done to the machine.
    async fn power_cycle(self: Arc<Self>, machine: Arc<Machine>, between: impl FnOnce(&Machine)) {
        let Ok(hands) = machine.hands.clone().try_lock_owned() else { return };
        machine.crash(self.any_crash()).await;
        between(&machine);
        // Often back before anybody has missed it, sometimes after others took over.
        let most = [400, 1_500, 6_000][self.random.place_below(3)];
        let wait = self.random.below(most);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        self.bring_back(&machine).await;
        drop(hands);
    }

    async fn pause(self: Arc<Self>, machine: Arc<Machine>) {
        let Some(boot) = machine.freeze() else { return };
        let most = [300, 2_000, 8_000][self.random.place_below(3)];
        let time = 10 + self.random.below(most);
        self.trace.tell(|| format!("machine {} stands still for {time} ms", machine.place));
        drop(machine);
        tokio::time::sleep(Duration::from_millis(time)).await;
        boot.thaw();
    }

    async fn cut_links(self: Arc<Self>, place: usize) {
        let places = self.machines.len();
        let kind = self.random.below(4);
        let other = self.random.place_below(places);
        let cuts: Vec<(usize, usize)> = match kind {
            // One machine from all others, both ways.
            0 => {
                (0..places).filter(|&there| there != place).flat_map(|there| [(place, there), (there, place)]).collect()
            }
            // Nothing that it sends arrives, or nothing that is sent to it.
            1 => (0..places).filter(|&there| there != place).map(|there| (place, there)).collect(),
            2 => (0..places).filter(|&there| there != place).map(|there| (there, place)).collect(),
            // A bridge: two halves that only the one machine reaches; or one link, when the cluster is small.
            _ => self.bridge(place, other),
        };
        let time = 100 + self.random.below([800, 4_000, 9_000][self.random.place_below(3)]);
        self.trace.tell(|| format!("links are cut for {time} ms: {cuts:?}"));
        cuts.iter().for_each(|&(from, to)| self.fabric.cut(from, to, true));
        self.note_who_is_alone();
        tokio::time::sleep(Duration::from_millis(time)).await;
        cuts.iter().for_each(|&(from, to)| self.fabric.cut(from, to, false));
        self.note_who_is_alone();
        self.trace.tell(|| format!("links of {place} are whole again"));
    }

    fn bridge(&self, bridge: usize, split: usize) -> Vec<(usize, usize)> {
        let places: Vec<_> = (0..self.machines.len()).filter(|&place| place != bridge).collect();
        let (left, right) = places.split_at(split.min(places.len()));
        let both_ways = |&here: &usize| right.iter().flat_map(move |&there| [(here, there), (there, here)]);
        left.iter().flat_map(both_ways).collect()
    }

    fn hurt_disk(self: &Arc<Self>, machine: Arc<Machine>) {
        machine.expect_fault();
        if self.random.once_in(2) {
            let operations = self.random.below(100);
            machine.disk.fail_in(operations);
            self.trace.tell(|| format!("the disk at {} fails after {operations} operations", machine.place));
        } else {
            machine.disk.fill(true);
            let time = 200 + self.random.below(4_000);
            self.trace.tell(|| format!("the disk at {} is full for {time} ms", machine.place));
            drop(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(time)).await;
                machine.disk.fill(false);
            }));
        }
    }

    /// Whether the cluster can do without what this machine remembers: it is no voter, or a majority of the voters is left
    /// that forgot nothing. Only while nobody is in the middle of the like.
    fn can_spare(&self, machine: &Machine) -> bool {
        let sets = self.deciding();
        let spared_by = |voters: &Vec<u64>| {
            let places: Vec<_> = voters.iter().map(|&voter| self.place_of(voter)).collect();
            let keeps = |place: &&usize| **place != machine.place && !self.machines[**place].is_damaged();
            let whole = places.iter().flatten().filter(keeps).count();
            whole * 2 > voters.len() || !places.contains(&Some(machine.place))
        };
        let others_whole = self.machines.iter().all(|other| !other.is_damaged());
        others_whole && machine.was_node() && !sets.is_empty() && sets.iter().all(spared_by)
    }

    async fn damage(self: Arc<Self>, machine: Arc<Machine>) {
        if !self.can_spare(&machine) {
            return;
        }
        let Ok(budget) = self.damage.clone().try_lock_owned() else { return };
        machine.expect_fault();
        let wait = self.random.below(3_000);
        let kind = self.random.below(5);
        match kind {
            0 => {
                machine.set_damaged(true);
                self.trace.tell(|| format!("the disk at {} lies", machine.place));
                machine.disk.lie(true);
                tokio::time::sleep(Duration::from_millis(wait)).await;
                self.clone().power_cycle(machine.clone(), |machine| machine.disk.lie(false)).await;
            }
            1 => {
                self.trace.tell(|| format!("the disk at {} rots", machine.place));
                let random = self.random.clone();
                self.clone()
                    .power_cycle(machine.clone(), |machine| {
                        machine.set_damaged(true);
                        machine.disk.rot(4, &random);
                    })
                    .await;
            }
            2 => {
                self.clone().roll_back(machine.clone()).await;
            }
            3 => self.clone().falter(machine.clone()).await,
            _ => {
                self.trace.tell(|| format!("the disk at {} is empty", machine.place));
                self.clone()
                    .power_cycle(machine.clone(), |machine| {
                        machine.set_damaged(true);
                        machine.disk.wipe();
                    })
                    .await;
            }
        }
        drop(budget);
    }

    /// A disk is replaced by an older copy of itself. Its peers can know that only if they had the time to remember, so
    /// nothing else breaks until the copy is back, and nothing may be broken.
    async fn roll_back(self: Arc<Self>, machine: Arc<Machine>) {
        let truce = self.truce.clone().lock_owned().await;
        tokio::time::sleep(TRUCE).await;
        if !self.is_whole() {
            return;
        }
        let (copy, before) = (machine.disk.copy(), machine.look().map(|node| node.status()));
        self.trace.tell(|| format!("the disk at {} will be replaced by one of now", machine.place));
        tokio::time::sleep(TRUCE).await;
        let later = machine.look().map(|node| node.status());
        tokio::time::sleep(TRUCE).await;
        if let (Some(before), Some(later), true) = (before, later, self.is_whole())
            && before.node == later.node
        {
            let forgets = later.last_entry > before.last_entry && later.voters.contains(&later.node);
            let put_back = |machine: &Machine| {
                machine.set_damaged(true);
                machine.disk.put_back(&copy);
                machine.set_forgets(forgets.then_some(later.node));
            };
            self.clone().power_cycle(machine.clone(), put_back).await;
        }
        drop(truce);
    }

    /// A member comes to another state than the others: its memory fails. It must stop by itself.
    async fn falter(self: Arc<Self>, machine: Arc<Machine>) {
        let truce = self.truce.clone().lock_owned().await;
        tokio::time::sleep(TRUCE).await;
        let leads = machine.look().is_some_and(|node| node.status().leader == Some(node.status().node));
        // Two voters that differ do not know which of them is wrong.
        let many = self.deciding().iter().all(|voters| voters.len() > 2);
        if leads || !many || !self.is_whole() {
            return;
        }
        machine.set_damaged(true);
        machine.let_memory_fail(true);
        let identity = machine.identity();
        for _ in 0..STOP_STEPS {
            tokio::time::sleep(STOP_STEP).await;
            if machine.identity() != identity {
                break;
            }
        }
        machine.let_memory_fail(false);
        if machine.identity() == identity && machine.has_faltered() && machine.look().is_some() {
            let line = format!("machine {} goes on with another state than the others", machine.place);
            self.ledger.with(|seen| seen.differing.push(line));
        } else if machine.identity() == identity && !machine.has_faltered() {
            machine.set_damaged(false);
        }
        drop(truce);
    }

    /// Whether every member runs, takes part and reaches every other.
    fn is_whole(&self) -> bool {
        let members = self.members();
        let runs = |machine: &Arc<Machine>| {
            let node = machine.reach().map(|(node, _)| node.status());
            node.is_some_and(|status| status.standing == Standing::Member && status.leader.is_some())
        };
        let reaches = |here: &Arc<Machine>| members.iter().all(|there| self.fabric.reaches(here.place, there.place));
        members.iter().all(|machine| runs(machine) && reaches(machine))
    }

    /// An HSM leaves the cluster for good, and another one comes in its place.
    async fn replace(self: Arc<Self>, machine: Arc<Machine>) {
        let many = self.members().iter().filter(|member| member.kind == MemberKind::Hsm).count() > 1;
        if !many || machine.kind != MemberKind::Hsm || !self.can_spare(&machine) {
            return;
        }
        let Ok(budget) = self.damage.clone().try_lock_owned() else { return };
        self.trace.tell(|| format!("machine {} leaves the cluster", machine.place));
        let leaving = machine.hsm();
        machine.expect_removal();
        // Until it is removed it is started again like any other: the cluster may need its vote for that.
        let removed = self.remove(&machine).await;
        let hands = machine.hands.clone().lock_owned().await;
        // It may have learnt it by itself, and be another one already.
        if removed && machine.hsm() == leaving {
            self.members.lock().retain(|&place| place != machine.place);
            // For a while it goes on as if nothing had happened: it may not have heard.
            let wait = self.random.below(4_000);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            machine.crash(self.any_crash()).await;
            machine.replace();
            self.members.lock().push(machine.place);
            self.bring_back(&machine).await;
        }
        drop((hands, budget));
    }
}
