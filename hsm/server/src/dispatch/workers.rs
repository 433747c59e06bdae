//! Threads for what takes long, with a bounded queue each: RSA keys, passwords.
//!
//! A job that panics ends alone: its request is answered by the drop of its late reply, and the thread goes on.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// What a thread runs.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads.
pub(crate) struct Workers {
    queue: Mutex<Queue>,
    bell: Condvar,
    limit: usize,
}

struct Queue {
    jobs: VecDeque<Job>,
    promised: usize,
    stopping: bool,
}

/// Room for one job in the queue of a pool.
pub(crate) struct Place<'a>(&'a Workers);

impl Place<'_> {
    /// Queues a job.
    pub(crate) fn take(self, job: Job) {
        let mut queue = self.0.queue.lock();
        if queue.stopping {
            drop(queue);
            drop(job);
            return;
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.0.bell.notify_one();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().promised -= 1;
    }
}

impl Workers {
    /// Starts `threads` threads that take from a queue of at most `limit` jobs.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(name: &str, threads: usize, limit: usize) -> std::io::Result<Arc<Self>> {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), promised: 0, stopping: false });
        let workers = Arc::new(Self { queue, bell: Condvar::new(), limit });
        for _ in 0..threads {
            let its_own = Arc::clone(&workers);
            std::thread::Builder::new().name(name.into()).spawn(move || its_own.work())?;
        }
        Ok(workers)
    }

    /// A place in the queue, before a job is made for it; `None` = the queue is full or the pool stops.
    pub(crate) fn place(&self) -> Option<Place<'_>> {
        let mut queue = self.queue.lock();
        if queue.stopping || queue.jobs.len() + queue.promised >= self.limit {
            return None;
        }
        queue.promised += 1;
        Some(Place(self))
    }

    /// Ends the threads after the jobs that they are at; what is queued is dropped.
    pub(crate) fn stop(&self) {
        let dropped = {
            let mut queue = self.queue.lock();
            queue.stopping = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(dropped);
        self.bell.notify_all();
    }

    fn work(&self) {
        loop {
            let job = {
                let mut queue = self.queue.lock();
                loop {
                    if let Some(job) = queue.jobs.pop_front() {
                        break job;
                    }
                    if queue.stopping {
                        return;
                    }
                    self.bell.wait(&mut queue);
                }
            };
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a request failed inside the HSM; the message above says where: please report it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_full_queue_has_no_place() {
        let workers = Workers::start("test", 0, 2).unwrap();
        workers.place().unwrap().take(Box::new(|| ()));
        let promised = workers.place().unwrap();
        assert!(workers.place().is_none());
        drop(promised);
        assert!(workers.place().is_some());
    }

    #[test]
    fn a_job_that_panics_does_not_end_its_thread() {
        let workers = Workers::start("test", 1, 8).unwrap();
        let (sender, receiver) = mpsc::channel();
        workers.place().unwrap().take(Box::new(|| panic!("meant to happen")));
        workers.place().unwrap().take(Box::new(move || sender.send(1).unwrap()));
        assert_eq!(receiver.recv_timeout(std::time::Duration::from_secs(5)), Ok(1));
        workers.stop();
        assert!(workers.place().is_none());
    }
}
