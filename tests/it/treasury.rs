//! Treasuries: an escrow that several gateways draw from, as an implementation beside the product's own would.

use std::sync::Arc;

use chittycan::{
    ledger::{Drawn, Grant, Purse, Treasury},
    types::NanoUsd,
};
use futures::future::{BoxFuture, join_all};
use tokio::{sync::watch, task::yield_now};

use crate::support::{Answer, Fake, Gateway, chat, gateway::providers};

/// The completion's usage at gpt-4o's price, in billionths of a dollar.
const COST: u64 = 3_000_000;

/// One limit for several gateways.
struct Escrow {
    /// What nobody has drawn.
    left: watch::Sender<u64>,
    /// The least that is granted.
    piece: u64,
    /// Into how many parts limits of rates go.
    parts: u64,
}

impl Escrow {
    fn new(left: u64) -> Arc<Self> {
        Arc::new(Self { left: watch::Sender::new(left), piece: 4 * COST, parts: 2 })
    }

    fn left(&self) -> u64 {
        *self.left.borrow()
    }
}

impl Treasury for Escrow {
    fn opening(&self, of: &Purse) -> Grant {
        assert_eq!((of.key.tenant.as_str(), of.key.hard), ("default", true));
        Grant::Part(NanoUsd(0))
    }

    fn draw<'a>(&'a self, _: &'a Purse, wanted: NanoUsd) -> BoxFuture<'a, Drawn> {
        Box::pin(async move {
            yield_now().await;
            let mut drawn = Drawn::Spent;
            self.left.send_if_modified(|left| {
                let piece = wanted.0.max(self.piece).min(*left);
                let enough = piece >= wanted.0;
                if enough {
                    *left -= piece;
                    drawn = Drawn::More(NanoUsd(piece));
                }
                enough
            });
            drawn
        })
    }

    fn give_back(&self, _: &Purse, back: NanoUsd) {
        self.left.send_modify(|left| *left += back.0);
    }

    fn share(&self, of: &str, what: &'static str, limit: u64) -> u64 {
        assert_eq!((of, what), ("default", "requests_per_minute"));
        limit / self.parts
    }
}

async fn ask(gateway: &Gateway, extra: &str) -> u16 {
    let body = chat("gpt-4o", extra);
    let client = reqwest::Client::new();
    client.post(gateway.url("/v1/chat/completions")).body(body).send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_spend_no_more_than_one_budget_and_give_back_what_is_left() {
    const TOTAL: u64 = 20 * COST;
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)]) + "tenants: {default: {budgets: [{usd: 0.06}]}}\n";
    let escrow = Escrow::new(TOTAL);
    let gateways = [(); 2].map(|()| Gateway::start_drawing(&yaml, escrow.clone()));
    assert_eq!(escrow.left(), TOTAL, "nothing is drawn before it is needed");
    // Rounds, until both are told that nothing is left.
    let (mut served, mut refused) = (0, 0);
    while refused < 20 {
        let all = (0..20).map(|n| ask(&gateways[n % 2], r#","max_tokens":200"#));
        for status in join_all(all).await {
            match status {
                200 => served += 1,
                402 => refused += 1,
                429 => {}
                other => panic!("{other}"),
            }
        }
    }
    let spent = served * COST;
    assert_eq!(fake.seen().len() as u64, served);
    assert!(spent <= TOTAL && spent > TOTAL / 2, "{spent}");
    for gateway in &gateways {
        gateway.terminate();
    }
    // Each gives back what it has drawn and not spent.
    escrow.left.subscribe().wait_for(|left| left + spent == TOTAL).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_counts_to_its_part_of_a_rate() {
    let fake = Fake::always(Answer::completion()).await;
    let yaml = providers(&[("openai", fake.address)]) + "tenants: {default: {limits: {requests_per_minute: 6}}}\n";
    let gateway = Gateway::start_drawing(&yaml, Escrow::new(0));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(&gateway, "").await);
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
}
