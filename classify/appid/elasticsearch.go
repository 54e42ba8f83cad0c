package appid

import "gatehouse/policy"

// Elasticsearch and OpenSearch transport protocol: TcpHeader of the server's
// sources: "ES", length, request id, status, version. The REST API is http.
var elasticsearchProtocol = protocol{
	app: policy.AppElasticsearch, tcp: true,
	client:       func(v *view) match { return elasticsearchHeader(v.c, v.cFull) },
	server:       func(v *view) match { return elasticsearchHeader(v.s, v.sFull) },
	clientFirsts: oneOf("E"), serverFirsts: oneOf("E"),
	attrs: func(v *view, a *Attrs) {
		// 8110099 is 8.11.0; OpenSearch sets a bit above.
		if len(v.c) >= 19 {
			id := int(be.Uint32(v.c[15:]) &^ 0x08000000)
			a.setVersion(id/1000000, id/10000%100, id/100%100)
		}
	},
}

func elasticsearchHeader(b []byte, full bool) match {
	const (
		ping = "ES\xff\xff\xff\xff"
		head = 19
	)
	if m := begins(b, "ES"); m != yes {
		return m
	}
	if begins(b, ping) == yes {
		return fits
	}
	if len(b) < head {
		return until(full)
	}
	if n := be.Uint32(b[2:]); n < head-6 || n > 1<<30 || b[14] > 0x0f || be.Uint32(b[15:]) == 0 || be.Uint32(b[15:]) > 200_000_000 {
		return no
	}
	return yes
}
