//! q3, q4, q8, q9, q20: people, auctions and bids that have to do with each other.

use millstream::state::{KeyedState, List, Value};
use millstream::{
    AtEndOfInput, BoxError, CoProcess, Count, Flow, Global, OnError, ProcessContext, Reduced, Stream, Sum, Text,
    TimedChain, Timer, Timestamp,
};
use millstream_state::TextError;
use nexmark::event::{Event, Person};

use super::stateless::wide;
use super::{Events, ten_seconds, timed};
use crate::nexmark::output::Output;
use crate::nexmark::source::Numbered;

/// Names of people have up to 14 bytes, of cities 13.
type Name = Text<16>;
/// The category that q3 and q20 look for.
const CATEGORY: u64 = 10;

#[millstream::event]
#[derive(Clone, Copy)]
struct Seller {
    id: u64,
    name: Name,
    city: Name,
    state: Text<8>,
}

impl Seller {
    /// A person from one of three states.
    fn of(event: &Numbered) -> Option<Result<Seller, TextError>> {
        let person = event.person().filter(|person| ["or", "id", "ca"].contains(&&*person.state))?;
        let fixed = |Person { id, name, city, state, .. }: &Person| {
            Ok(Seller { id: wide(*id), name: name.parse()?, city: city.parse()?, state: state.parse()? })
        };
        Some(fixed(person))
    }
}

/// q3: sellers with what they sell, for ever.
pub(super) fn q3(flow: &Flow, events: impl Events, output: Output) {
    let (events, sellers) = timed(flow, events).branch(Seller::of);
    let sellers = sellers.try_map(Clone::clone, OnError::Fail).key_by(|seller| seller.id);
    let auctions = events
        .filter_map(|event| {
            let auction = event.auction().filter(|auction| wide(auction.category) == CATEGORY)?;
            Some([wide(auction.id), wide(auction.seller)])
        })
        .key_by(|[_, seller]| *seller);
    sellers
        .join_unbounded(auctions, |seller, [auction, _]| (seller.name, seller.city, seller.state, *auction))
        .named("offers")
        .sink(output);
}

/// A person who has joined, or a seller of whom an auction has begun: or both, once these are put together.
#[millstream::event]
#[derive(Clone, Copy, Default)]
struct Newcomer {
    id: u64,
    has_joined: u64,
    has_sold: u64,
    name: Name,
}

impl Newcomer {
    fn of(event: &Numbered) -> Result<Newcomer, TextError> {
        Ok(match &event.event {
            Event::Person(person) => {
                Newcomer { id: wide(person.id), has_joined: 1, has_sold: 0, name: person.name.parse()? }
            }
            Event::Auction(auction) => Newcomer { id: wide(auction.seller), has_sold: 1, ..Newcomer::default() },
            Event::Bid(_) => Newcomer::default(),
        })
    }

    fn and(&self, other: &Newcomer) -> Newcomer {
        let name = if self.has_joined == 1 { self.name } else { other.name };
        Newcomer {
            id: self.id,
            has_joined: self.has_joined | other.has_joined,
            has_sold: self.has_sold | other.has_sold,
            name,
        }
    }
}

/// q8: a window's people and sellers are put together by their id; those go on that are both. So each is there once.
pub(super) fn q8(flow: &Flow, events: impl Events, output: Output) {
    timed(flow, events)
        .filter(|event| event.bid().is_none())
        .try_map(Newcomer::of, OnError::Fail)
        .key_by(|newcomer| newcomer.id)
        .window(ten_seconds())
        .aggregate(Reduced::by(Newcomer::and))
        .named("newcomers")
        .filter(|row| row.value.has_joined == 1 && row.value.has_sold == 1)
        .map(|row| (row.key, row.value.name, row.window.start.0))
        .sink(output);
}

/// An auction's life.
#[millstream::event]
#[derive(Clone, Copy)]
struct Lot {
    id: u64,
    category: u64,
    opens_ms: i64,
    expires_ms: i64,
}

impl Lot {
    fn of(event: &Numbered) -> Option<Lot> {
        event.auction().map(|auction| Lot {
            id: wide(auction.id),
            category: wide(auction.category),
            opens_ms: auction.date_time as i64,
            expires_ms: auction.expires as i64,
        })
    }

    /// Both ends are among it.
    fn lasts_at(&self, at_ms: i64) -> bool {
        (self.opens_ms..=self.expires_ms).contains(&at_ms)
    }
}

#[millstream::event]
#[derive(Clone, Copy)]
struct Offer {
    auction: u64,
    bidder: u64,
    price: u64,
    at_ms: i64,
}

impl Offer {
    fn of(event: &Numbered) -> Option<Offer> {
        event.bid().map(|bid| Offer {
            auction: wide(bid.auction),
            bidder: wide(bid.bidder),
            price: wide(bid.price),
            at_ms: bid.date_time as i64,
        })
    }

    /// The higher wins, then the earlier, then the bidder with the lesser number.
    fn beats(&self, other: &Offer) -> bool {
        let standing = |offer: &Offer| (std::cmp::Reverse(offer.price), offer.at_ms, offer.bidder);
        standing(self) < standing(other)
    }
}

/// An auction that is over, and the bid that won it.
#[derive(Clone, Copy)]
struct Won {
    category: u64,
    offer: Offer,
}

/// What is known of an auction.
#[derive(KeyedState)]
struct Bidding {
    lot: Value<Lot>,
    best: Value<Offer>,
    /// Bids that came before their auction: not all roads are equally long.
    early: List<Offer>,
}

impl Bidding {
    fn bid(&mut self, offer: Offer) {
        if self.best.get().is_none_or(|best| offer.beats(best)) {
            self.best.set(offer);
        }
    }
}

/// Tells the winning bid of each auction when it expires, and forgets it then.
struct Winners;

type Cx<'a> = ProcessContext<'a, u64, Won>;

impl CoProcess<u64, Lot, Offer> for Winners {
    type State = Bidding;
    type Out = Won;

    fn on_left(&mut self, bidding: &mut Bidding, lot: Lot, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        bidding.lot.set(lot);
        let early: Vec<Offer> = bidding.early.iter().copied().filter(|offer| lot.lasts_at(offer.at_ms)).collect();
        bidding.early.clear();
        early.into_iter().for_each(|offer| bidding.bid(offer));
        cx.timers().event(Timestamp(lot.expires_ms));
        Ok(())
    }

    fn on_right(&mut self, bidding: &mut Bidding, offer: Offer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        match bidding.lot.get().copied() {
            Some(lot) if lot.lasts_at(offer.at_ms) => bidding.bid(offer),
            Some(_) => {}
            None => {
                // Its auction may still come as long as the bid's time has not passed.
                bidding.early.push(offer);
                cx.timers().event(Timestamp(offer.at_ms));
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, bidding: &mut Bidding, _: Timer, cx: &mut Cx<'_>) -> Result<(), BoxError> {
        let watermark = cx.watermark();
        match bidding.lot.get().copied() {
            None => bidding.early.retain(|offer| Timestamp(offer.at_ms) > watermark),
            Some(lot) if Timestamp(lot.expires_ms) <= watermark => {
                if let Some(offer) = bidding.best.get().copied() {
                    cx.emit(Won { category: lot.category, offer });
                }
                bidding.best.clear();
                bidding.lot.clear();
            }
            Some(_) => {}
        }
        Ok(())
    }
}

fn winning_bids(flow: &Flow, events: impl Events) -> Stream<impl TimedChain<Out = Won>> {
    let (events, offers) = timed(flow, events).branch(Offer::of);
    let lots = events.filter_map(Lot::of).key_by(|lot| lot.id);
    lots.connect(offers.key_by(|offer| offer.auction)).process(Winners).named("winners")
}

/// q4: winning prices, summed up by category.
pub(super) fn q4(flow: &Flow, events: impl Events, output: Output) {
    winning_bids(flow, events)
        .map(|won| [won.category, won.offer.price])
        .key_by(|[category, _]| *category)
        .window(Global)
        .trigger(AtEndOfInput)
        .aggregate((Sum::of(|[_, price]: &[u64; 2]| *price), Count))
        .named("by category")
        .map(|row| [row.key, row.value.0, row.value.1])
        .sink(output);
}

/// q9: the winning bid of each auction.
pub(super) fn q9(flow: &Flow, events: impl Events, output: Output) {
    winning_bids(flow, events)
        .map(|Won { offer, .. }| ([offer.auction, offer.bidder, offer.price], offer.at_ms))
        .sink(output);
}

/// q20: bids with their auctions, those of one category, for ever.
pub(super) fn q20(flow: &Flow, events: impl Events, output: Output) {
    let (events, offers) = timed(flow, events).branch(Offer::of);
    let auctions = events
        .filter_map(|event| {
            let auction = event.auction().filter(|auction| wide(auction.category) == CATEGORY)?;
            Some([wide(auction.id), wide(auction.seller), auction.expires])
        })
        .key_by(|[id, ..]| *id);
    offers
        .key_by(|offer| offer.auction)
        .join_unbounded(auctions, |offer, [_, seller, expires]| {
            ([offer.auction, offer.bidder, offer.price], offer.at_ms, [*seller, *expires])
        })
        .named("with auctions")
        .sink(output);
}
