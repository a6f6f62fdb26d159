//! Which queries there are.

use std::fmt;
use std::str::FromStr;

macro_rules! queries {
    ($($name:ident $text:literal $what:literal)*) => {
        /// A Nexmark query.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[expect(missing_docs, reason = "`what` says what each is")]
        pub enum Query {
            $($name,)*
        }

        impl Query {
            /// All that there are, in order.
            pub const ALL: &[Query] = &[$(Query::$name),*];

            /// Its name: `q5`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Query::$name => $text,)*
                }
            }

            /// What it does, in a few words.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self {
                    $(Query::$name => $what,)*
                }
            }
        }
    };
}

queries! {
    Q0 "q0" "every bid, as it is"
    Q1 "q1" "prices in another currency"
    Q2 "q2" "bids on some auctions"
    Q3 "q3" "who sells what in three states"
    Q4 "q4" "winning prices by category"
    Q5 "q5" "the auctions with the most bids"
    Q7 "q7" "the highest bids"
    Q8 "q8" "people who sell as soon as they have joined"
    Q9 "q9" "the winning bid of each auction"
    Q10 "q10" "bids into partitioned files"
    Q11 "q11" "bids by session of the bidder"
    Q12 "q12" "bids by bidder and window of wall time"
    Q13 "q13" "bids joined with a table"
    Q14 "q14" "a filter and a calculation on bids"
    Q15 "q15" "a day's bids, bidders and auctions"
    Q16 "q16" "the same by channel"
    Q17 "q17" "a day's bids and prices by auction"
    Q18 "q18" "the last bid of each bidder on each auction"
    Q19 "q19" "the ten highest prices of each auction"
    Q20 "q20" "bids with what they bid for"
    Q21 "q21" "the channel's number of each bid"
    Q22 "q22" "the directories of each bid's url"
}

impl Query {
    /// Whether rows come while events do, all through, and are the same each time.
    #[must_use]
    pub fn has_output_as_it_goes(self) -> bool {
        use Query::{Q4, Q12, Q15, Q16, Q17, Q18, Q19};
        !matches!(self, Q4 | Q12 | Q15 | Q16 | Q17 | Q18 | Q19)
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Query {
    type Err = String;

    fn from_str(text: &str) -> Result<Query, String> {
        if let Some(query) = Query::ALL.iter().find(|query| query.name() == text) {
            return Ok(*query);
        }
        if text == "q6" {
            return Err(
                "q6 is left out: it averages over the last ten auctions of a seller in the order in which they \
                        close, which its definition leaves open where several close at once"
                    .to_owned(),
            );
        }
        let known: Vec<&str> = Query::ALL.iter().map(|query| query.name()).collect();
        Err(format!("expected one of {}, or all", known.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for query in Query::ALL {
            assert_eq!(query.to_string().parse(), Ok(*query));
        }
        assert!("q6".parse::<Query>().unwrap_err().starts_with("q6 is left out"));
        assert!("q99".parse::<Query>().unwrap_err().contains("q0, q1, q2"));
        assert!("Q0".parse::<Query>().is_err());
    }
}
