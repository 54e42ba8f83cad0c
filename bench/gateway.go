package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// A gateway is a process of its own, as it is where it guards containers: in
// the harness's process its worker would wait for the turn of the clients'
// goroutines. The harness writes a request to its standard input, one JSON
// value each, and reads one answer; the end of the input ends it.

type gatewayRequest struct {
	Site       string // name of the variant
	Host       string // path of its host namespace
	VethA      int    // ifindex
	VethB      int
	Offload    bool   // false: no flow is handed to the kernel
	TAP        bool   // the slow path is a TAP
	Pair       bool   // a bump in the wire between the two legs, which no bridge joins
	MissBudget uint32 // 0 = none
	// Flows is how many at once the tables must have room for, where that is more
	// than they have by themselves.
	Flows int
	// Statements is how many the table has beside those that the measurements use.
	Statements int
	// Forget, of a gateway that runs, ends all its flows.
	Forget bool
}

type gatewayAnswer struct {
	Error  string `json:",omitempty"`
	Counts GatewayCounts
}

// GatewayCounts is what a gateway did in the whole run.
type GatewayCounts struct {
	Steered   uint64        `json:"steered"`   // packets handed to user space
	Returned  uint64        `json:"returned"`  // frames that came back from it
	Hits      uint64        `json:"hits"`      // packets carried by the kernel's flow map
	Peer      uint64        `json:"peer"`      // of those and of Returned, put straight into the peer's namespace
	Offloaded uint64        `json:"offloaded"` // flows written to the kernel's map
	NoFrame   uint64        `json:"noFrame"`   // steered packets that found no room
	Kicks     uint64        `json:"kicks"`     // system calls to transmit
	User      time.Duration `json:"user"`      // processor time of the process
	System    time.Duration `json:"system"`
}

// gatewayProcess is the harness's end of a gateway.
type gatewayProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	to  *json.Encoder
	out *json.Decoder

	offloads bool
}

func startGateway(args []string, r gatewayRequest) (*gatewayProcess, error) {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	p := &gatewayProcess{cmd: cmd, in: in, to: json.NewEncoder(in), out: json.NewDecoder(out), offloads: r.Offload}
	if _, err := p.ask(r); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

func (p *gatewayProcess) ask(r gatewayRequest) (GatewayCounts, error) {
	if err := p.to.Encode(r); err != nil {
		return GatewayCounts{}, fmt.Errorf("gateway: %w", err)
	}
	var a gatewayAnswer
	if err := p.out.Decode(&a); err != nil {
		return GatewayCounts{}, fmt.Errorf("gateway: %w", err)
	}
	if a.Error != "" {
		return GatewayCounts{}, errors.New(a.Error)
	}
	return a.Counts, nil
}

// counts asks what the gateway has done so far.
func (p *gatewayProcess) counts() (GatewayCounts, error) { return p.ask(gatewayRequest{}) }

// forget makes the gateway's tables empty, if there is one: a flood goes on where
// the last one found them full.
func (s *site) forget() error {
	if s.gateway == nil {
		return nil
	}
	_, err := s.gateway.ask(gatewayRequest{Forget: true})
	return err
}

func (p *gatewayProcess) stop() error {
	if err := errors.Join(p.in.Close(), p.cmd.Wait()); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	return nil
}

// ServeGateway is the life of a gateway that the harness has started with
// Config.Gateway: it guards the site that the first request names, answers each
// further one with its counts, and takes everything down at the end of in.
func ServeGateway(in io.Reader, out io.Writer) error {
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	var r gatewayRequest
	if err := requests.Decode(&r); err != nil {
		return fmt.Errorf("read the site: %w", err)
	}
	build := newGateway
	if r.Pair {
		build = newPairGateway
	}
	g, err := build(r)
	if err != nil {
		return answers.Encode(gatewayAnswer{Error: err.Error()})
	}
	for err == nil {
		var a gatewayAnswer
		if r.Forget {
			g.forget()
		}
		if a.Counts, err = g.counts(); err != nil {
			a.Error = err.Error()
		}
		if err = answers.Encode(a); err == nil {
			err = requests.Decode(&r)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, g.close())
}
