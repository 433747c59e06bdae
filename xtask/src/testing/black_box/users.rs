//! What `kagimori` promises of users and their keys, on a real HSM.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::strangers::refused;
use crate::conversation::Conversation;
use crate::installation::Installation;
use crate::testing::Tally;
use crate::testing::disposable::Disposable;
use crate::workspace::{Workspace, capture};

/// Runs the checks.
pub(super) fn run(tally: &mut Tally, workspace: &Workspace, hsm: &Disposable) {
    let outcome = farewell(workspace, hsm);
    tally.check("a user is deleted once his keys are deleted and his logins ended, and is told so before", outcome);
    let wrong = hsm.folder().join("wrong.password");
    tally.check("enabling does not unlock, a new password does not enable, and both are said", locked(hsm, &wrong));
}

fn farewell(workspace: &Workspace, hsm: &Disposable) -> Result<()> {
    const USER: &str = "leaver";
    let installation = hsm.installation();
    installation.create_user(USER)?;
    let pin = installation.pin(USER)?;
    let as_user = |words: &[&str]| {
        let mut command = installation.kagimori();
        command.env("KAGIMORI_ROLE", "crypto-user").env("KAGIMORI_PIN", &pin).args(words);
        command
    };
    let mut application = hsm.application(workspace, &["hold"])?;
    application.env("P11_PIN", &pin);
    let mut session = Conversation::start(application)?;
    let held = ["he has 2 key(s) and 1 login(s)", "kagimori key delete", "kagimori user logout"];
    expect(&refused(&mut of_user(installation, "delete", USER)?)?, &held)?;
    let his_keys = ["key", "delete", "--filter", "attr.token=true"];
    expect(&refused(&mut as_user(&his_keys))?, &["keys fit the filter"])?;
    capture(as_user(&his_keys).arg("--all"))?;
    expect(&refused(&mut of_user(installation, "delete", USER)?)?, &["he has 0 key(s) and 1 login(s)"])?;
    capture(&mut of_user(installation, "logout", USER)?)?;
    if session.ask()? == "signed" {
        bail!("a key that was deleted signed for a login that was ended");
    }
    capture(&mut of_user(installation, "delete", USER)?)?;
    session.end()
}

fn locked(hsm: &Disposable, wrong: &Path) -> Result<()> {
    const USER: &str = "shutout";
    let installation = hsm.installation();
    installation.create_user(USER)?;
    for _ in 0..6 {
        let mut command = installation.kagimori();
        command.args(["login", "--username", USER, "--role", "crypto-user", "--password-file"]).arg(wrong);
        refused(&mut command)?;
    }
    capture(&mut of_user(installation, "disable", USER)?)?;
    expect(&capture(&mut of_user(installation, "enable", USER)?)?, &["still locked"])?;
    capture(&mut of_user(installation, "disable", USER)?)?;
    let right = installation.admin().join(format!("{USER}.password"));
    let mut command = of_user(installation, "change-password", USER)?;
    expect(&capture(command.arg("--password-file").arg(right))?, &["still disabled"])?;
    expect(&capture(&mut of_user(installation, "enable", USER)?)?, &["may log in"])
}

/// `kagimori user … --username … --role crypto-user`, by the admin.
fn of_user(installation: &Installation, act: &str, user: &str) -> Result<Command> {
    let mut command = installation.kagimori_as_admin()?;
    command.args(["user", act, "--username", user, "--role", "crypto-user"]);
    Ok(command)
}

fn expect(said: &str, words: &[&str]) -> Result<()> {
    match words.iter().find(|words| !said.contains(**words)) {
        Some(missing) => bail!("{missing:?} is not in:\n{said}"),
        None => Ok(()),
    }
}
