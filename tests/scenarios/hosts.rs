//! The second pair of eyes is on another host: told by real addresses, of this machine and of a network beside it.

use std::net::Ipv4Addr;
use std::process::Command;

use dayfly_client::CallError;
use dayfly_proto::v1;
use harness::{World, WorldOptions};
use serde_json::Value;

const PROD: &str = r#"
kind: Scope
metadata: {name: prod-read}
spec:
  stages: [training]
  parameters: {table: {type: segment}}
  approval: {max: 1h}
  target: {token: {audience: "https://db.example.org", checked: offline}}
---
kind: Binding
metadata: {name: train-prod}
spec: {identities: ["spiffe://example.org/train/*"], scope: prod-read}
"#;

/// A network of its own, joined to this machine by a cable: what comes out of it is another host to whoever listens here.
struct Neighbour {
    name: String,
    /// This machine's end of the cable.
    here: Ipv4Addr,
    /// Another address of this machine, at no end of any cable.
    second: Ipv4Addr,
    /// The other end.
    there: Ipv4Addr,
}

impl Neighbour {
    fn new() -> Self {
        // Four addresses of 10.77/16 for each process that may run this at once.
        let block = (std::process::id() % (1 << 14)) << 2;
        let address = |number: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 77, 0, 0)) + block + number);
        let name = format!("dayfly{}", std::process::id());
        let neighbour = Self { name, here: address(1), there: address(2), second: address(3) };
        let Self { name, here, second, there } = &neighbour;
        let (cable, other) = neighbour.ends();
        ip(&format!("netns add {name}"));
        ip(&format!("link add {cable} type veth peer name {other} netns {name}"));
        ip(&format!("addr add {here}/30 dev {cable}"));
        ip(&format!("addr add {second}/32 dev lo"));
        ip(&format!("link set {cable} up"));
        ip(&format!("-n {name} addr add {there}/30 dev {other}"));
        ip(&format!("-n {name} link set {other} up"));
        neighbour
    }

    fn ends(&self) -> (String, String) {
        let number = std::process::id();
        (format!("dfa{number}"), format!("dfb{number}"))
    }

    /// From now on this machine speaks to its own end of the cable from its second address.
    fn speak_from_second(&self) {
        let (cable, _) = self.ends();
        let Self { here, second, .. } = self;
        ip(&format!(
            "route replace local {here} dev {cable} proto kernel scope host src {second} table local"
        ));
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let (cable, _) = self.ends();
        for words in [
            format!("link delete {cable}"),
            format!("netns delete {}", self.name),
            format!("addr delete {}/32 dev lo", self.second),
        ] {
            let gone = Command::new("ip").args(words.split(' ')).status();
            assert!(gone.is_ok_and(|status| status.success()) || std::thread::panicking(), "ip {words}");
        }
    }
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {words}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn a_second_admin_counts_from_another_machine_and_from_no_address_of_the_brokers_own() {
    let neighbour = Neighbour::new();
    let mut world = World::start(WorldOptions { everywhere: true, ..WorldOptions::default() }).await.unwrap();
    world.apply(PROD).await.unwrap();
    let admin = world.admin().await.unwrap();
    let parameters = [("table".to_owned(), "users".to_owned())].into();
    let ask = v1::RequestApprovalRequest {
        spiffe_id: world.id("/train/a"),
        scope: Some(v1::ScopeRequest { scope: "prod-read".to_owned(), parameters }),
        end: Some(v1::request_approval_request::End::Duration(prost_types::Duration {
            seconds: 600,
            nanos: 0,
        })),
        ticket: "OPS-1".to_owned(),
        reason: "the nightly job broke".to_owned(),
    };
    let asked = admin.approvals().request_approval(ask).await.map_err(CallError::from).unwrap();
    let asked = asked.into_inner().approval.unwrap();
    assert_eq!(asked.requested_on, "broker", "over loopback");

    let (_, port) = world.broker_address.rsplit_once(':').unwrap();
    let from_here = |to: Ipv4Addr| {
        let words = ["approve", &asked.approval_id, "--yes", "-o", "json"];
        world.dayfly_admin().unwrap().env("DAYFLY_BROKER", format!("{to}:{port}")).args(words)
    };
    let is_same_host = async |to: Ipv4Addr, from: &str| {
        let said = from_here(to).finish().await.unwrap();
        assert!(
            !said.status.success() && said.stderr.contains("APPROVER_ON_SAME_HOST"),
            "{from}: {}",
            said.stderr
        );
    };
    is_same_host(Ipv4Addr::LOCALHOST, "loopback").await;
    is_same_host(neighbour.here, "the address that is spoken to").await;
    neighbour.speak_from_second();
    is_same_host(neighbour.here, "another address of the same machine").await;
    let shown = v1::GetApprovalRequest { approval_id: asked.approval_id.clone() };
    let shown = admin.approvals().get_approval(shown).await.unwrap().into_inner().approval.unwrap();
    assert_eq!(shown.state, "requested");

    // The same program, as the same admin, from the other end of the cable.
    let approved = from_here(neighbour.here).behind("ip", ["netns", "exec", &neighbour.name]);
    let approved = approved.output().await.unwrap();
    let approved: Value = serde_json::from_str(&approved).unwrap();
    assert_eq!(
        (&approved["state"], &approved["decided_on"]),
        (&"approved".into(), &neighbour.there.to_string().into()),
        "{approved}"
    );
}
