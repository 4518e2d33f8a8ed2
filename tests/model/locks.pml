/* Interlock's locks once more, in Promela: written from the protocol alone, sharing no code with what
   it describes, and searched exhaustively by spin. One lock with one slot, two replicas that lag by
   as much as they like, clients that each ask once. A hand-over is one step here; that it may be one
   message, which leaves the record of who gave back standing for a while, is in lock_model.py.

   Flaws that must be found: -DSETTLE_UNCONDITIONAL, -DRENEW_UNCONDITIONAL, -DTWO_STEPS, -DLATE_ACK,
   -DALONE_FOR_EVER, -DEARLY_EXPIRY. */

#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef MOST			/* records that are ever stored */
#define MOST 8
#endif
#ifndef EXPIRIES
#define EXPIRIES 1
#endif
#ifndef RENEWALS
#define RENEWALS 1
#endif
#define REPLICAS 2

#define NONE 0
#define MARKER 1
#define WAITING 2
#define OFFERED 3
#define HELD 4

#ifdef SETTLE_UNCONDITIONAL
#define SETTLES(condition) true
#else
#define SETTLES(condition) (condition)
#endif
#ifdef LATE_ACK
#define HEARD(condition) true
#else
#define HEARD(condition) (condition)
#endif
#ifdef EARLY_EXPIRY
#define DUE(condition) true
#else
#define DUE(condition) (condition)
#endif

/* The broker: what stands at each claim's key, and all that was ever stored. */
byte kind[CLIENTS], rev[CLIENTS], place[CLIENTS];
byte seq = 0;
byte logKey[MOST], logKind[MOST], logPlace[MOST];
byte expiries = EXPIRIES, renewals = RENEWALS;

/* The replicas: what they were told. */
typedef View { byte kind[CLIENTS]; byte rev[CLIENTS]; byte place[CLIENTS]; byte at }
View view[REPLICAS];

/* The clients: whether what they asked for stands open, whether they may still rely on anything,
   whether the broker has told them, whether they believe, and whether they are done. */
bool asked[CLIENTS], open[CLIENTS], told[CLIENTS], believes[CLIENTS], alone[CLIENTS], done[CLIENTS];
byte left[CLIENTS];

#define stands(k) (k >= WAITING)
#define holds(k) (k >= OFFERED)
#define room(n) (seq + n <= MOST)

/* The group's last sequence, as the broker sees it. */
inline groupLast(into) {
	into = 0;
	for (i : 0 .. CLIENTS - 1) {
		if :: kind[i] != NONE && rev[i] > into -> into = rev[i] :: else fi
	}
}

/* The same as a replica knows it: its clock says that markers count still, or do not any more. */
inline viewLast(r, into, fresh) {
	into = 0;
	for (i : 0 .. CLIENTS - 1) {
		if
		:: (stands(view[r].kind[i]) || (fresh && view[r].kind[i] == MARKER)) && view[r].rev[i] > into ->
			into = view[r].rev[i]
		:: else
		fi
	}
}

inline store(c, what, where) {
	logKey[seq] = c; logKind[seq] = what; logPlace[seq] = where;
	seq++;
	kind[c] = what; rev[c] = seq; place[c] = where;
	/* What it is told it can hear at any later time; an offer it has to take up first. */
	if :: what == HELD -> told[c] = true :: what == OFFERED -> told[c] = false :: else fi
}

/* At most one holds, and whoever believes does hold. */
inline check() {
	n = 0; m = 0;
	for (i : 0 .. CLIENTS - 1) {
		if :: holds(kind[i]) -> n++ :: else fi;
		if :: believes[i] -> m++; assert(kind[i] == HELD) :: else fi
	}
	assert(n <= 1);
	assert(m <= 1);
	n = 0; m = 0
}

/* Who is next, as a replica knows it; `but` is about to go. CLIENTS: nobody. */
inline next(r, but) {
	first = CLIENTS;
	n = 0;
	for (i : 0 .. CLIENTS - 1) {
		if :: i != but && holds(view[r].kind[i]) -> n++ :: else fi
	}
	if
	:: n == 0 ->
		for (i : 0 .. CLIENTS - 1) {
			if
			:: i != but && view[r].kind[i] == WAITING &&
			   (first == CLIENTS || view[r].place[i] < view[r].place[first]) -> first = i
			:: else
			fi
		}
	:: else
	fi;
	n = 0
}

/* Of those that really wait, who came first is served first. */
inline inOrder(who, but) {
	if
	:: kind[who] == WAITING ->
		for (i : 0 .. CLIENTS - 1) {
			assert(!(i != but && i != who && kind[i] == WAITING && place[i] < place[who]))
		}
	:: else
	fi
}

proctype Replica(byte r) {
	byte c, i, n, m, last, mine, first;
	bool fresh, waiters;
end:	do
	:: atomic { /* learn the next record */
		view[r].at < seq ->
		c = logKey[view[r].at];
		view[r].kind[c] = logKind[view[r].at];
		view[r].place[c] = logPlace[view[r].at];
		view[r].at++;
		view[r].rev[c] = view[r].at;
		c = 0
	   }
	:: atomic { /* a request to acquire comes in, maybe late */
		select(c : 0 .. CLIENTS - 1);
		select(n : 0 .. 1); fresh = n; n = 0;
		groupLast(last); viewLast(r, mine, fresh);
		if
		:: left[c] > 0 && !stands(view[r].kind[c]) && last == mine && room(1) ->
			left[c]--;
			n = 0; waiters = false;
			for (i : 0 .. CLIENTS - 1) {
				if :: stands(view[r].kind[i]) -> n++ :: else fi;
				if :: kind[i] == WAITING -> waiters = true :: else fi
			}
			if
			:: n == 0 -> assert(!waiters); store(c, HELD, 0)
			:: else -> store(c, WAITING, seq + 1)
			fi;
			check()
		:: else
		fi;
		c = 0; fresh = false; last = 0; mine = 0; n = 0; i = 0; waiters = false
	   }
	:: atomic { /* hand over what is free */
		select(n : 0 .. 1); fresh = n; n = 0;
		groupLast(last); viewLast(r, mine, fresh);
		next(r, CLIENTS);
		if
		:: first < CLIENTS && room(1) && SETTLES(last == mine) ->
			inOrder(first, CLIENTS);
			store(first, OFFERED, view[r].place[first]);
			check()
		:: else
		fi;
		fresh = false; last = 0; mine = 0; first = 0; i = 0
	   }
	:: atomic { /* a claim is given back or given up, or an offer is not taken up: hand over */
		select(c : 0 .. CLIENTS - 1);
		select(n : 0 .. 1); fresh = n; n = 0;
		groupLast(last); viewLast(r, mine, fresh);
		if
		:: stands(view[r].kind[c]) && last == mine && room(2) &&
		   (done[c] || view[r].kind[c] == OFFERED) ->
			next(r, c);
#ifdef TWO_STEPS
			first = CLIENTS;
#endif
			waiters = false; m = 0;
			for (i : 0 .. CLIENTS - 1) {
				if :: i != c && kind[i] == WAITING -> waiters = true :: else fi;
				if :: i != c && holds(kind[i]) -> m++ :: else fi
			}
			if :: first < CLIENTS -> inOrder(first, c) :: else fi;
			/* It is not its giving back that leaves it free while somebody waits. */
			assert(first < CLIENTS || !waiters || m > 0 || !holds(kind[c]));
			m = 0;
			store(c, MARKER, 0);
			if :: first < CLIENTS -> store(first, OFFERED, view[r].place[first]) :: else fi;
			check()
		:: else
		fi;
		c = 0; fresh = false; last = 0; mine = 0; first = 0; i = 0; waiters = false
	   }
#ifdef RENEW_UNCONDITIONAL
	:: atomic {
		select(c : 0 .. CLIENTS - 1);
		if
		:: view[r].kind[c] == HELD && !done[c] && renewals > 0 && room(1) ->
			renewals--; store(c, HELD, view[r].place[c]); check()
		:: else
		fi;
		c = 0
	   }
#endif
	od
}

proctype Client(byte c) {
	byte i, n, m, last;
	bool waiters;
	atomic { asked[c] = true; open[c] = true; left[c] = 1 };
end:	do
	:: done[c] -> break
	:: atomic { /* nobody has a claim: take it */
		!done[c] && left[c] > 0 && room(1) ->
		groupLast(last);
		if
		:: last == 0 -> left[c]--; store(c, HELD, 0); alone[c] = true; check()
		:: else
		fi;
		last = 0; i = 0
	   }
	:: atomic { /* hear of it, in time */
		!done[c] && told[c] && !believes[c] && HEARD(open[c]) ->
		believes[c] = true; open[c] = true; check()
	   }
	:: atomic { /* take up, on the condition of one's own record: the broker decides at once */
		!done[c] && kind[c] == OFFERED && room(1) ->
		store(c, HELD, place[c]); open[c] = true; check()
	   }
	:: atomic { /* renew */
		!done[c] && kind[c] == HELD && renewals > 0 && room(1) ->
		renewals--;
		store(c, HELD, place[c]);
#ifndef ALONE_FOR_EVER
		alone[c] = false;
#endif
		check()
	   }
	:: atomic { /* hear nothing for so long that one can rely on nothing */
		!done[c] && open[c] -> open[c] = false; believes[c] = false
	   }
	:: atomic { /* give it back oneself, nobody else being there */
		!done[c] && believes[c] && alone[c] && room(1) ->
		groupLast(last);
		if
		:: last == rev[c] ->
			waiters = false;
			for (i : 0 .. CLIENTS - 1) {
				if :: kind[i] == WAITING -> waiters = true :: else fi
			}
			assert(!waiters);
			store(c, MARKER, 0);
			believes[c] = false; done[c] = true
		:: else
		fi;
		last = 0; i = 0; waiters = false
	   }
	:: atomic { /* give it back, or give up, by the service */
		!done[c] -> believes[c] = false; open[c] = false; done[c] = true
	   }
	od
}

/* Lives end, and a second later their markers. */
proctype Time() {
	byte c, i, n, m;
end:	do
	:: atomic {
		select(c : 0 .. CLIENTS - 1);
		if
		:: stands(kind[c]) && expiries > 0 && room(1) && DUE(done[c] || !open[c]) ->
			expiries--; store(c, MARKER, 0); check()
		:: kind[c] == MARKER ->
			n = 0;
			for (i : 0 .. CLIENTS - 1) {
				if :: kind[i] == MARKER && rev[i] < rev[c] -> n++ :: else fi
			}
			if :: n == 0 -> kind[c] = NONE; rev[c] = 0 :: else fi
		:: else
		fi;
		c = 0; i = 0; n = 0
	   }
	od
}

init {
	atomic {
		byte c;
		run Replica(0); run Replica(1); run Time();
		for (c : 0 .. CLIENTS - 1) { run Client(c) }
	}
}
