//! Client certificates as an admin sets them.

use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{ErrorCode, Role};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::client::{ADMIN_PASSWORD, Client, Hsm};

fn anchor() -> String {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn register(certificate: &str) -> request::Body {
    request::Body::RegisterTrustAnchor(wire::RegisterTrustAnchor { certificate: certificate.into() })
}

fn reference(body: reply::Body) -> u32 {
    let reply::Body::TrustAnchor(reply) = body else { panic!("no reference") };
    reply.reference
}

fn anchors(client: &mut Client) -> wire::ListTrustAnchorsReply {
    let body = client.call(request::Body::ListTrustAnchors(wire::ListTrustAnchors {})).unwrap();
    let reply::Body::ListTrustAnchors(reply) = body else { panic!("no list") };
    reply
}

#[test]
fn an_admin_registers_two_anchors_requires_certificates_and_takes_it_back() {
    let hsm = Hsm::active();
    let mut admin = hsm.connect();
    admin.log_in("admin", Role::Admin, ADMIN_PASSWORD);
    let require = |required| request::Body::SetClientCertificates(wire::SetClientCertificates { required });
    assert_eq!(admin.change(require(true)).err(), Some(ErrorCode::TrustAnchorMissing));
    let (first, second) = (anchor(), anchor());
    let one = reference(admin.change(register(&first)).unwrap());
    assert_eq!(reference(admin.change_again(register(&first)).unwrap()), one, "the same call again");
    assert_eq!(admin.change(register(&first)).err(), Some(ErrorCode::TrustAnchorExists));
    assert_eq!(
        admin.change(register(&format!("{first}\n"))).err(),
        Some(ErrorCode::TrustAnchorExists),
        "the same certificate in another text"
    );
    let two = reference(admin.change(register(&second)).unwrap());
    assert_eq!(admin.change(register(&anchor())).err(), Some(ErrorCode::TrustAnchorLimit));
    assert_eq!(admin.change(register("no certificate")).err(), Some(ErrorCode::CertificateRefused));
    admin.change_done(require(true));
    let listed = anchors(&mut admin);
    assert!(listed.required);
    assert_eq!(listed.items.iter().map(|item| item.reference).collect::<Vec<_>>(), [one, two]);
    admin.change_done(require(false));
    for reference in [one, two] {
        let remove = wire::DeregisterTrustAnchor { reference };
        admin.change_done(request::Body::DeregisterTrustAnchor(remove));
        let again = admin.change(request::Body::DeregisterTrustAnchor(remove)).err();
        assert_eq!(again, Some(ErrorCode::TrustAnchorUnknown));
    }
}

#[test]
fn a_crypto_user_changes_no_policy_and_no_users() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let role = Role::CryptoUser as u32;
    let refused = [
        register(&anchor()),
        request::Body::SetClientCertificates(wire::SetClientCertificates { required: false }),
        request::Body::CreateUser(wire::CreateUser { name: "x".into(), role, password: b"12345678".to_vec() }),
        request::Body::DeleteUser(wire::DeleteUser { name: "other".into(), role }),
        request::Body::SetUserEnabled(wire::SetUserEnabled { name: "other".into(), role, enabled: false }),
        request::Body::LogoutEverywhere(wire::LogoutEverywhere { user: "other".into(), role }),
    ];
    for body in refused {
        let method = hsm_protocol::convert::method(&body);
        assert_eq!(client.change(body).err(), Some(ErrorCode::RoleRefused), "method {method}");
    }
    assert!(hsm.connect_as("other").make_pair(true).1.token_object > 0);
}
