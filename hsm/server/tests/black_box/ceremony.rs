//! The initialisation ceremony, with the system's OpenSSL as the customer: AWS's documented steps, word for word.

use crate::support::Running;

fn formed() -> Running {
    let running = Running::start(&[]);
    running.managed(&["form", "--label", "test"]);
    running.managed(&["certificates", "--out-dir", &running.text("ceremony")]);
    running
}

fn initialize(running: &Running, certificate: &str, anchor: &str) -> std::process::Output {
    let (certificate, anchor) = (running.text(certificate), running.text(anchor));
    running.manage(&["initialize", "--certificate", &certificate, "--trust-anchor", &anchor])
}

fn refusal(running: &Running, certificate: &str, anchor: &str) -> String {
    let output = initialize(running, certificate, anchor);
    assert_eq!(output.status.code(), Some(13), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("(code 41)"), "{said}");
    said
}

#[test]
fn openssl_verifies_both_chains_and_the_request() {
    let running = formed();
    for (hardware, root) in
        [("AwsHardwareCertificate", "AwsRoot"), ("ManufacturerHardwareCertificate", "ManufacturerRoot")]
    {
        let hardware = format!("ceremony/{hardware}.crt");
        let root = format!("ceremony/{root}.crt");
        running.openssl(&["verify", "-CAfile", &root, &hardware]);
        // As AWS's document has it: both in one bundle.
        let bundle = running.path("bundle.pem");
        let both = [std::fs::read(running.path(&hardware)).unwrap(), std::fs::read(running.path(&root)).unwrap()];
        std::fs::write(&bundle, both.concat()).unwrap();
        running.openssl(&["verify", "-CAfile", "bundle.pem", "ceremony/HsmCertificate.crt"]);
    }
    running.openssl(&["req", "-in", "ceremony/ClusterCsr.csr", "-verify", "-noout"]);
    let of_certificate = running.openssl(&["x509", "-in", "ceremony/HsmCertificate.crt", "-pubkey", "-noout"]);
    let of_request = running.openssl(&["req", "-in", "ceremony/ClusterCsr.csr", "-pubkey", "-noout"]);
    assert_eq!(of_certificate, of_request);
}

#[test]
fn both_hardware_certificates_are_over_one_card_key() {
    let running = formed();
    let key = |file: &str| running.openssl(&["x509", "-in", file, "-pubkey", "-noout"]);
    assert_eq!(key("ceremony/AwsHardwareCertificate.crt"), key("ceremony/ManufacturerHardwareCertificate.crt"));
    assert_ne!(key("ceremony/AwsRoot.crt"), key("ceremony/ManufacturerRoot.crt"));
}

#[test]
fn awss_documented_command_makes_a_certificate_that_is_taken() {
    for (kind, extra) in [
        (vec!["rsa:2048"], vec![]),
        (vec!["rsa:4096"], vec!["-sha384"]),
        (vec!["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], vec![]),
        (vec!["ec", "-pkeyopt", "ec_paramgen_curve:P-521"], vec!["-sha512"]),
    ] {
        let running = formed();
        running.make_ca("ca", &kind);
        running.sign("signed.crt", "ca", &extra);
        let output = initialize(&running, "signed.crt", "ca.crt");
        assert!(output.status.success(), "{kind:?}: {output:?}");
        let status = running.status();
        assert_eq!(status["lifecycle"], "initialized");
        assert_ne!(status["client_address"], "");
    }
}

#[test]
fn the_certificate_of_awss_command_is_x509_v1_on_this_openssl() {
    let running = formed();
    running.make_ca("ca", &["rsa:2048"]);
    running.sign("signed.crt", "ca", &[]);
    let shown = running.openssl(&["x509", "-in", "signed.crt", "-noout", "-text"]);
    assert!(shown.contains("Version: 1 (0x0)"), "newer OpenSSL makes v3: then make v1 here by other means\n{shown}");
}

#[test]
fn a_v3_certificate_with_server_extensions_is_taken() {
    let running = formed();
    running.make_ca("ca", &["rsa:2048"]);
    std::fs::write(running.path("ext"), "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:hsm.example\n").unwrap();
    running.sign("signed.crt", "ca", &["-extfile", "ext"]);
    assert!(initialize(&running, "signed.crt", "ca.crt").status.success());
}

/// Formed, with the CA `ca` and its `signed.crt` over the cluster's key.
fn signed() -> Running {
    let running = formed();
    running.make_ca("ca", &["rsa:2048"]);
    running.sign("signed.crt", "ca", &[]);
    running
}

/// A certificate `NAME.crt` by `ca` over another key than the cluster's.
fn sign_other_key(running: &Running, name: &str) {
    let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
    let subject = format!("/CN={name}");
    running.openssl(&[
        "req", "-new", "-nodes", "-subj", &subject, "-newkey", "rsa:2048", "-keyout", &key, "-out", &request,
    ]);
    running.openssl(&[
        "x509",
        "-req",
        "-days",
        "9",
        "-in",
        &request,
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-set_serial",
        "7",
        "-out",
        &certificate,
    ]);
}

#[test]
fn a_certificate_by_another_ca_or_over_another_key_is_refused_and_changes_nothing() {
    let running = signed();
    running.make_ca("other", &["rsa:2048"]);
    assert!(refusal(&running, "signed.crt", "other.crt").contains("was not issued by the trust anchor"));
    // The same name, another key.
    running.openssl(&[
        "req", "-x509", "-new", "-nodes", "-days", "9", "-subj", "/CN=ca", "-newkey", "rsa:2048", "-keyout",
        "twin.key", "-out", "twin.crt",
    ]);
    assert!(refusal(&running, "signed.crt", "twin.crt").contains("not by the trust anchor's key"));
    sign_other_key(&running, "x");
    assert!(refusal(&running, "x.crt", "ca.crt").contains("over another key"));
    // What the CA issued is no self-signed anchor.
    assert!(refusal(&running, "signed.crt", "x.crt").contains("not self-signed"));

    assert_eq!(running.status()["lifecycle"], "uninitialized");
    assert!(initialize(&running, "signed.crt", "ca.crt").status.success(), "a right one is still taken");
}

#[test]
fn an_expired_or_weakly_signed_certificate_is_refused() {
    let running = signed();
    running.sign("expired.crt", "ca", &["-days", "-1"]);
    assert!(refusal(&running, "expired.crt", "ca.crt").contains("has expired"));
    running.sign("sha1.crt", "ca", &["-sha1"]);
    assert!(refusal(&running, "sha1.crt", "ca.crt").contains("SHA-256"));
}

#[test]
fn extensions_that_contradict_a_tls_server_are_refused() {
    let running = signed();
    for (words, said) in [
        ("basicConstraints=critical,CA:TRUE", "CA:FALSE"),
        ("extendedKeyUsage=clientAuth", "serverAuth"),
        ("keyUsage=keyEncipherment", "digitalSignature"),
        ("1.2.3.4=critical,ASN1:NULL", "critical extension"),
    ] {
        std::fs::write(running.path("ext"), format!("{words}\n")).unwrap();
        running.sign("extended.crt", "ca", &["-extfile", "ext"]);
        assert!(refusal(&running, "extended.crt", "ca.crt").contains(said), "{words}");
    }
}

#[test]
fn an_anchor_that_is_weak_or_no_ca_is_refused() {
    let running = formed();
    for (name, key, constraint, said) in [
        ("small", "rsa:1024", "basicConstraints=critical,CA:TRUE", "2048 to 8192"),
        ("leaf", "rsa:2048", "basicConstraints=critical,CA:FALSE", "CA:TRUE"),
        ("signer", "rsa:2048", "keyUsage=critical,digitalSignature", "keyCertSign"),
    ] {
        let (own_key, certificate, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        running.openssl(&[
            "req",
            "-x509",
            "-new",
            "-nodes",
            "-days",
            "9",
            "-subj",
            &subject,
            "-newkey",
            key,
            "-addext",
            constraint,
            "-keyout",
            &own_key,
            "-out",
            &certificate,
        ]);
        running.sign("by-it.crt", name, &[]);
        assert!(refusal(&running, "by-it.crt", &certificate).contains(said), "{name}");
    }
}

#[test]
fn what_is_no_single_certificate_is_refused() {
    let running = formed();
    running.make_ca("ca", &["rsa:2048"]);
    running.sign("signed.crt", "ca", &[]);
    let signed = std::fs::read_to_string(running.path("signed.crt")).unwrap();
    let anchor = std::fs::read_to_string(running.path("ca.crt")).unwrap();
    let key = std::fs::read_to_string(running.path("ca.key")).unwrap();
    let write = |name: &str, content: &str| std::fs::write(running.path(name), content).unwrap();
    write("chain.crt", &format!("{signed}{anchor}"));
    assert!(refusal(&running, "chain.crt", "ca.crt").contains("more than one certificate"));
    write("with-key.crt", &format!("{signed}{key}"));
    assert!(refusal(&running, "with-key.crt", "ca.crt").contains("private key"));
    write("words.crt", "hello");
    assert!(refusal(&running, "words.crt", "ca.crt").contains("not a PEM certificate"));
    write("cut.crt", &signed.replacen("MII", "MIA", 1));
    assert!(refusal(&running, "cut.crt", "ca.crt").contains("cannot be read"));
    write("long.crt", &format!("{signed}{}", " ".repeat(20_000)));
    assert_eq!(initialize(&running, "long.crt", "ca.crt").status.code(), Some(14));
}

#[test]
fn initialisation_happens_once_and_leaves_the_two_certificates_to_fetch() {
    let running = Running::start(&[]);
    running.initialise();
    let output = initialize(&running, "ClusterCertificate.crt", "customerCA.crt");
    assert_eq!(output.status.code(), Some(13), "{output:?}");
    let written = running.managed(&["certificates", "--out-dir", &running.text("after")]);
    let written = written.as_object().unwrap();
    assert!(written.contains_key("ClusterCertificate.crt") && written.contains_key("customerCA.crt"), "{written:?}");
    assert!(!written.contains_key("ClusterCsr.csr") && !written.contains_key("HsmCertificate.crt"), "{written:?}");
    running.openssl(&["verify", "-CAfile", "after/customerCA.crt", "after/ClusterCertificate.crt"]);
}
