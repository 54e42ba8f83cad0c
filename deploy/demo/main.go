// Command demo shows Gatehouse on real containers: it starts two Compose-like
// projects and a Swarm stack, lets an intruder loose in one of their
// containers, and watches at the receivers what arrives: without Gatehouse,
// with it, while it is dead, and after it is gone.
//
//	demo -gatehouse bin/gatehouse -intruder bin/intruder
//
// It wants root, a Docker daemon and the images of deploy/images. It exits
// non-zero unless every line of its last table is as policy says, and takes
// everything that it made away again. The order of events is in show.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

func main() {
	gatehouse := flag.String("gatehouse", "bin/gatehouse", "the gateway's binary")
	intruder := flag.String("intruder", "bin/intruder", "the intruder's binary")
	without := flag.Bool("without", false, "only show that every attempt succeeds where no gateway is")
	flag.Parse()
	// The gateway gets a signal when the thread that started it ends: this one
	// lives as long as the demo.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *gatehouse, *intruder, *without); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

// run makes the stage, shows, and clears the stage whatever happened.
func run(ctx context.Context, gatehouse, intruder string, without bool) (err error) {
	start := time.Now()
	s := &stage{intruder: intruder}
	g, err := newGateway(gatehouse)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.remove(context.WithoutCancel(ctx))) }()
	if err := g.alone(ctx); err != nil {
		return err
	}
	clear := func() error { return s.clear(context.WithoutCancel(ctx)) }
	if err := clear(); err != nil { // what an earlier run, killed, left behind
		return err
	}
	defer func() { err = errors.Join(err, clear()) }()
	act("The stage", "projects shop and blog, a Swarm stack, and an outside world; all servers are real")
	if err := s.build(ctx); err != nil {
		return err
	}
	if err := s.describe(ctx); err != nil {
		return err
	}
	g.useEngine(s)
	r := &report{}
	if err := show(ctx, s, g, r, without); err != nil {
		return err
	}
	fmt.Printf("\n%s in %.0f s\n", r.summary(), time.Since(start).Seconds())
	return r.verdict()
}

// show is the play, act by act.
func show(ctx context.Context, s *stage, g *gateway, r *report, without bool) error {
	attempts := s.attempts()

	act("Without Gatehouse", "an intruder in shop/app, shop/worker, shop/web and media/client tries what it likes")
	if err := s.ordinary(ctx, r); err != nil {
		return err
	}
	for i := range attempts {
		saw, err := attempts[i].try(ctx, s)
		if err != nil {
			return err
		}
		attempts[i].before = saw
		r.check(saw.arrived(), "without a gateway %q should succeed, and the receiver saw %s", attempts[i].what, saw)
	}
	fmt.Printf("  %d attempts, and the receivers saw %s of them\n", len(attempts), counted(arrivals(attempts), len(attempts)))
	if without {
		r.table(attempts)
		return nil
	}
	if err := s.heal(ctx); err != nil {
		return err
	}

	act("Gatehouse starts, nothing configured", "it reads Docker, and writes the policy itself")
	if err := g.start(ctx); err != nil {
		return err
	}
	if err := g.tellStatements(ctx); err != nil {
		return err
	}

	act("Ordinary traffic, observed", "every service is in observe mode: what does not fit is recorded, and passes")
	if err := pause(ctx, warmUp); err != nil { // connections older than the gateway end
		return err
	}
	since := time.Now()
	if err := s.ordinary(ctx, r); err != nil {
		return err
	}
	if err := g.quiet(ctx, s, since, r); err != nil {
		return err
	}

	act("Enforce", "gatehouse mode SERVICE enforce, for each; ordinary traffic goes on, the intruder tries again")
	if err := g.enforce(ctx, s); err != nil {
		return err
	}
	if err := s.ordinary(ctx, r); err != nil {
		return err
	}
	for i := range attempts {
		if err := attempts[i].tryGuarded(ctx, s, g, r); err != nil {
			return err
		}
	}
	fmt.Printf("  %d attempts, and the receivers saw %s of them\n", len(attempts), counted(arrivalsGuarded(attempts), len(attempts)))
	if err := g.explain(ctx, attempts[0].violation.ID); err != nil {
		return err
	}

	if err := kill(ctx, s, g, r); err != nil {
		return err
	}

	act("Uninstall", "the network is left as it was found")
	if err := g.uninstall(ctx, r); err != nil {
		return err
	}
	saw, err := attempts[0].try(ctx, s)
	if err != nil {
		return err
	}
	r.line(saw.arrived(), "again %s: the receiver saw %s", attempts[0].what, saw)

	act("What was tried", "what the receiver saw without and with Gatehouse, captured in the receiver's own namespace")
	r.table(attempts)
	return nil
}
