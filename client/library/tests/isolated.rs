//! HSMs that hear from no majority: a login is made at one of them only when nobody else takes it, and stays there until the
//! others know it.
#![expect(clippy::unwrap_used, reason = "in a test, to panic is to fail")]

mod peer;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hsm_client::{Cluster, Login};
use hsm_protocol::{ErrorCode, Role};
use peer::hsms::Hsms;
use peer::{echo, echoed};

fn call(cluster: &Cluster, login: Option<&Login>) {
    assert_eq!(echoed(cluster.call(login, &|_| echo(b"x")).unwrap()), b"x");
}

#[test]
fn an_isolated_hsm_takes_a_login_only_when_nobody_else_does() {
    let hsms = Hsms::new(3);
    // The one whose address is configured, and which must tell of the others first.
    hsms.faces[0].isolated.store(true, Ordering::Relaxed);
    for _ in 0..10 {
        Cluster::new(hsms.configuration()).log_in("user", Role::CryptoUser, b"password").unwrap();
    }
    assert!(hsms.world.alone.lock().unwrap().is_empty(), "an application is bound to the HSM that is cut off");
}

#[test]
fn a_login_that_one_hsm_took_alone_stays_there_until_the_others_know_it() {
    let mut hsms = Hsms::new(3);
    hsms.faces.iter().for_each(|face| face.isolated.store(true, Ordering::Relaxed));
    let cluster = Cluster::new(hsms.configuration());
    let login = cluster.log_in("user", Role::CryptoUser, b"password").unwrap();
    let home = *hsms.world.alone.lock().unwrap().values().next().unwrap();
    let home = hsms.faces.iter().position(|face| face.hsm == home).unwrap();
    hsms.served();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| call(&cluster, Some(&login))));
        }
    });
    let served = hsms.served();
    assert_eq!((served[home], served.iter().sum::<u64>()), (160, 160));
    // A wrong password is no reason to ask elsewhere, or twice.
    let before = hsms.world.requests.load(Ordering::Relaxed);
    let refused = cluster.log_in("user", Role::CryptoUser, b"wrong").err().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::LoginRefused));
    assert!(hsms.world.requests.load(Ordering::Relaxed) - before <= 8);

    // The others do not know it: that is no end of the login while its HSM is away.
    hsms.kill(home);
    let world = Arc::clone(&hsms.world);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            // It was heard for a moment, and told them.
            world.alone.lock().unwrap().clear();
        });
        call(&cluster, Some(&login));
    });
    assert_eq!(hsms.served()[home], 0);
    (0..20).for_each(|_| call(&cluster, Some(&login)));
}
