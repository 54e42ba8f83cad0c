package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

const (
	warmUp = time.Second     // load before the kill
	dead   = 3 * time.Second // at least this long without a gateway

	// A stream's line comes every 50 ms; this leaves room for a busy machine.
	linesWhileDead  = 20
	patienceOutside = 1500 * time.Millisecond
)

// kill ends the gateway under load: what runs goes on, what is new and
// forbidden stays out, and a new gateway takes over.
func kill(ctx context.Context, s *stage, g *gateway, r *report) error {
	act("SIGKILL under load", fmt.Sprintf("%d streams outside -> web -> app -> db, and one download at full speed; then the gateway dies", streamCount))
	l, err := startLoad(ctx)
	if err != nil {
		return err
	}
	defer l.stop()
	if err := pause(ctx, warmUp); err != nil {
		return err
	}
	if err := g.kill(); err != nil {
		return err
	}
	mark, died := l.marks(), time.Now()
	if err := whileDead(ctx, s, r); err != nil {
		return err
	}
	if err := pause(ctx, time.Until(died.Add(dead))); err != nil {
		return err
	}
	lines, bytes, gap, broken := l.since(mark)
	r.line(broken == nil && lines >= linesWhileDead, "established streams: each %d queries or more in %.1f s, longest pause %d ms%s",
		lines, time.Since(died).Seconds(), gap.Milliseconds(), orError(broken))
	r.line(bytes > 0, "the download: %d MB more", bytes>>20)

	act("A new gateway takes over", "maps, links and devices are pinned")
	mark = l.marks()
	if err := g.start(ctx); err != nil {
		return err
	}
	if err := pause(ctx, warmUp); err != nil {
		return err
	}
	lines, bytes, gap, broken = l.since(mark)
	r.line(broken == nil && lines > 0 && bytes > 0, "the streams and the download never stopped: longest pause %d ms%s", gap.Milliseconds(), orError(broken))
	l.stop()
	if err := s.ordinary(ctx, r); err != nil {
		return err
	}
	first := s.attempts()[0]
	saw, err := first.try(ctx, s)
	r.line(!saw.arrived(), "shop/app tries %s: the receiver saw %s", first.what, saw)
	return err
}

// whileDead tries what is new while no gateway runs: nothing of it may pass.
func whileDead(ctx context.Context, s *stage, r *report) error {
	for _, a := range s.attempts()[:2] {
		saw, err := a.try(ctx, s)
		if err != nil {
			return err
		}
		r.line(!saw.arrived(), "%s tries %s: the receiver saw %s", a.from, a.what, saw)
	}
	saw, err := s.newcomer(ctx)
	if err != nil {
		return err
	}
	r.line(!saw.arrived(), "a container started now, whose first act is to connect to the database: the receiver saw %s", saw)
	body, err := get(ctx, front("/"), patienceOutside)
	if err == nil {
		body.Close()
	}
	r.line(err != nil, "a new connection that policy would allow waits for a gateway, too: enforcing services are closed")
	return nil
}

// newcomer starts a container in the shop's network that at once connects to
// its database.
func (s *stage) newcomer(ctx context.Context) (sight, error) {
	db := s.containers["shop/db"]
	target := db.legs["shop_default"].v4
	a := connectTo("", "", netip.Addr{}, db.netns, target, 5432, sqlGuess, nil)
	opens := a.fits
	a.fits = func(f frame) bool {
		from, _ := f.addresses()
		return opens(f) && !s.knows(from)
	}
	return watch(ctx, &a, func() error {
		id, err := docker(ctx, append([]string{"create", "--label", ours, "--network", "shop_default",
			"--entrypoint", intruderInside, "demo/app:1"}, a.act...)...)
		if err != nil {
			return err
		}
		if _, err := docker(ctx, "cp", s.intruder, id+":"+intruderInside); err != nil {
			return err
		}
		_, err = docker(ctx, "start", "--attach", id)
		_ = err // its connection fails, and so does it
		_, rmErr := docker(ctx, "rm", "-f", id)
		return errors.Join(context.Cause(ctx), rmErr)
	})
}

// knows reports whether an address is one of the stage's containers.
func (s *stage) knows(a netip.Addr) bool {
	for _, c := range s.containers {
		for _, l := range c.legs {
			if l.v4 == a || l.v6 == a {
				return true
			}
		}
	}
	return false
}
