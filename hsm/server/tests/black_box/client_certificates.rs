//! Client certificates: asked for when an admin says so, of whom it was said, and of those who are inside already.

use hsm_client::{Cluster, ClusterConfiguration};
use hsm_protocol::Role;

use crate::support::Running;

const PASSWORD: &[u8] = b"admin password";

/// A client with this pair of certificate and key (`NAME.crt`, `NAME.key`).
fn client(running: &Running, pair: Option<&str>) -> Cluster {
    let mut configuration = ClusterConfiguration::new("test");
    configuration.addresses = vec![running.status()["client_address"].as_str().unwrap().to_owned()];
    configuration.trust_anchor = Some(running.path("customerCA.crt"));
    configuration.client_certificate = pair.map(|name| running.path(&format!("{name}.crt")));
    configuration.client_key = pair.map(|name| running.path(&format!("{name}.key")));
    configuration.call_timeout = std::time::Duration::from_secs(5);
    Cluster::new(configuration)
}

/// A client certificate `NAME.crt` by this CA.
fn issue(running: &Running, name: &str, ca: &str) {
    let (key, request, subject) = (format!("{name}.key"), format!("{name}.csr"), format!("/CN={name}"));
    let curve = "ec_paramgen_curve:P-256";
    running.openssl(&[
        "req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt", curve, "-subj", &subject, "-keyout", &key, "-out",
        &request,
    ]);
    std::fs::write(running.path("client.ext"), "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n").unwrap();
    let (certificate, ca_certificate, ca_key) = (format!("{name}.crt"), format!("{ca}.crt"), format!("{ca}.key"));
    running.openssl(&[
        "x509",
        "-req",
        "-days",
        "30",
        "-in",
        &request,
        "-CA",
        &ca_certificate,
        "-CAkey",
        &ca_key,
        "-set_serial",
        "5",
        "-extfile",
        "client.ext",
        "-out",
        &certificate,
    ]);
}

fn reaches(cluster: &Cluster) -> bool {
    cluster.cluster_info().is_ok()
}

/// Active, with the clients' CA registered, certificates for `member` by it and for `stranger` by another.
fn active() -> (Running, Cluster, hsm_client::Login) {
    let mut running = Running::start(&[]);
    running.initialise();
    let activation = running.status()["activation_password"].as_str().unwrap().to_owned();
    running.make_ca("clientsCA", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    running.make_ca("strangersCA", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    issue(&running, "member", "clientsCA");
    issue(&running, "stranger", "strangersCA");
    let admin = client(&running, Some("member"));
    admin.activate(activation.as_bytes(), PASSWORD).unwrap();
    assert_eq!(running.status()["activation_password"], "", "void once the cluster is active");
    let login = admin.log_in("admin", Role::Admin, PASSWORD).unwrap();
    let anchor = std::fs::read_to_string(running.path("clientsCA.crt")).unwrap();
    admin.register_trust_anchor(&login, &anchor).unwrap();
    assert!(running.child.try_wait().unwrap().is_none());
    (running, admin, login)
}

/// The rule holds for connections from a moment after the answer on: the listener takes it up by itself.
fn turned_away(running: &Running, certificate: Option<&str>) {
    let began = std::time::Instant::now();
    while reaches(&client(running, certificate)) {
        assert!(began.elapsed().as_secs() < 2, "{certificate:?} still comes in");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn once_required_only_certificates_by_the_anchor_come_in() {
    let (running, admin, login) = active();
    assert!(reaches(&client(&running, None)), "not required yet");
    assert!(reaches(&client(&running, Some("stranger"))), "not looked at yet");
    admin.set_client_certificates(&login, true).unwrap();
    turned_away(&running, None);
    turned_away(&running, Some("stranger"));
    assert!(reaches(&client(&running, Some("member"))));
    admin.set_client_certificates(&login, false).unwrap();
    assert!(reaches(&client(&running, None)));
}

#[test]
fn whoever_is_inside_without_a_certificate_is_put_out_when_it_is_required() {
    let (running, admin, login) = active();
    let inside = client(&running, None);
    assert!(reaches(&inside));
    admin.set_client_certificates(&login, true).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(!reaches(&inside));
    // The admin's own connection ended as well, and his login goes on over a new one.
    assert!(admin.list_users(Some(&login)).is_ok());
}

#[test]
fn the_rule_outlives_a_restart() {
    let (mut running, admin, login) = active();
    admin.set_client_certificates(&login, true).unwrap();
    running.restart();
    assert_eq!(running.status()["client_certificates_required"], true);
    assert!(!reaches(&client(&running, None)));
    assert!(reaches(&client(&running, Some("member"))));
}
