//! stub
pub(crate) fn run(_: &crate::workspace::Workspace, _: &Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
/// x
#[derive(clap::Args)]
pub(crate) struct Arguments {}
