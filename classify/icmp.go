package classify

import "gatehouse/policy"

// icmp judges ICMP and ICMPv6 (R21): echo is a flow with a size and a rate;
// errors belong to the flow whose packet they quote; nothing else passes.
func (c *Classifier) icmp(p *Packet, in *Ingress, now int64, out *Result) {
	switch {
	case p.isEcho():
		c.echo(p, in, now, out)
	case !p.isICMPError():
		c.refuse(p, in, policy.ReasonICMPType, out)
	case p.Fragment != Whole || !c.related(p, in):
		c.refuse(p, in, policy.ReasonICMPUnrelated, out)
	default:
		out.Forward, out.Verdict = true, policy.Allow
	}
}

// related: the quoted packet is of a live flow that policy lets pass, and the
// error goes to who sent it. An endpoint is no router: it speaks of what was
// sent to itself.
func (c *Classifier) related(p *Packet, in *Ingress) bool {
	if !p.HasInner || p.InnerSrc != p.Dst {
		return false
	}
	if in.FromEndpoint && p.Src != p.Inner.AddrA && p.Src != p.Inner.AddrB {
		return false
	}
	if f := c.flows.find(&p.Inner); f != nil {
		return f.Allowed()
	}
	return c.live != nil && c.live(p.Inner)
}

func (p *Packet) isEchoRequest() bool {
	return p.ICMPType == icmpEcho && !p.V6 || p.ICMPType == icmp6Echo && p.V6
}

func (c *Classifier) echo(p *Packet, in *Ingress, now int64, out *Result) {
	f := c.flows.find(&p.Key)
	if !p.isEchoRequest() && (f == nil || f.Initiator == p.side()) {
		c.refuse(p, in, policy.ReasonICMPUnrelated, out)
		return
	}
	if f != nil && f.Initiator != p.side() && p.isEchoRequest() {
		c.crossEcho(f, p, in, now, out)
		return
	}
	c.flowPacket(p, in, now, out)
	if !out.Forward || out.Flow == nil {
		return
	}
	out.Flow.ping(p)
	size := len(p.Payload)
	if p.Fragment == FirstFragment && p.MoreFollow {
		size = echoMax + 1
	}
	if size <= echoMax && !out.Flow.tooFast(p.side(), now) {
		return
	}
	c.violation(out.Flow, policy.ReasonICMPSize, out)
	if out.Flow.Judgement.Denied || in.Mode == policy.Observe {
		out.Judgement = recorded(policy.ReasonICMPSize)
		return
	}
	out.Forward, out.Reason = false, policy.ReasonICMPSize
}

// crossEcho judges a request on the identifier of a flow that the other side
// began: it is no part of that flow and passes by its own sender's right, at
// the rate of the flow's replies.
func (c *Classifier) crossEcho(f *Flow, p *Packet, in *Ingress, now int64, out *Result) {
	app := policy.AppICMP
	if p.V6 {
		app = policy.AppICMPv6
	}
	q := policy.Query{Zone: in.Zone, Src: p.Src, Dst: p.Dst, Proto: policy.ProtoICMP}
	j := c.table.Lookup(q).Judge(policy.Spoken{App: app})
	switch {
	case j.Denied:
		c.refuse(p, in, j.Reason, out)
	case len(p.Payload) > echoMax || p.Fragment != Whole || f.tooFast(p.side(), now):
		c.refuse(p, in, policy.ReasonICMPSize, out)
	default:
		out.Forward, out.Verdict, out.Judgement = true, policy.Allow, j
	}
}

// tooFast is a token bucket for each side, kept as the time at which it is full
// again (GCRA).
func (f *Flow) tooFast(side uint8, now int64) bool {
	due := max(f.rate[side], now)
	if due-now > echoBurst-echoInterval {
		return true
	}
	f.rate[side] = due + echoInterval
	return false
}
