package appid

import "gatehouse/policy"

// Redis serialization protocol (RESP2 and RESP3): "Redis serialization protocol
// specification" of the Redis documentation. A command as an array of bulk
// strings is proof; inline commands need a RESP reply.
var redisProtocol = protocol{
	app: policy.AppRedis, tcp: true,
	client: redisCommand, server: redisReply,
	clientFirsts: oneOf("*").or(between('A', 'Z')).or(between('a', 'z')), serverFirsts: oneOf("+-:$*%_~>#,(=!|"),
}

const redisArgsMax = 1 << 20

func redisCommand(v *view) match {
	if v.c[0] != '*' {
		return redisInline(v)
	}
	rest := v.c[1:]
	args, n := number(rest)
	switch {
	case n == len(rest) && n < 8:
		return until(v.cFull)
	case n == 0 || args < 1 || args > redisArgsMax:
		return no
	}
	if rest = rest[n:]; begins(rest, "\r\n$") != yes {
		return begins(rest, "\r\n$")
	}
	rest = rest[3:]
	size, n := number(rest)
	switch {
	case n == len(rest) && n < 4:
		return until(v.cFull)
	case n == 0 || size < 1 || size > 64:
		return no
	}
	if rest = rest[n:]; begins(rest, "\r\n") != yes {
		return begins(rest, "\r\n")
	}
	rest = rest[2:]
	for i, c := range rest[:min(size, len(rest))] {
		// Names of commands, and of modules' commands such as JSON.SET.
		if !alpha(c) && (i == 0 || !digit(c) && c != '.' && c != '_' && c != '-') {
			return no
		}
	}
	if len(rest) < size {
		return until(v.cFull)
	}
	return begins(rest[size:], "\r\n")
}

// redisInlines are what people and health checks type without RESP.
var redisInlines = []string{"PING", "AUTH", "INFO", "GET", "SET", "QUIT", "EXISTS", "MONITOR", "SUBSCRIBE", "HELLO", "SELECT", "CONFIG", "KEYS", "ECHO", "COMMAND", "DBSIZE", "SYNC", "PSYNC", "REPLCONF"}

func redisInline(v *view) match {
	if v.serverFirst { // POP3 has some of these words too
		return no
	}
	if m := word(v.c, redisInlines); m != yes {
		return m
	}
	l, _, ok := line(v.c)
	if !ok {
		return until(v.cFull)
	}
	if !text(l) {
		return no
	}
	return fits
}

func redisReply(v *view) match {
	b := v.s
	if begins(b, "-DENIED Redis") == yes || begins(b, "-NOAUTH ") == yes {
		return yes
	}
	l, _, ok := line(b)
	switch b[0] {
	case '+', '-', '(', ',', '#', '_', '!', '=':
		if !text(l) || !ok && !text(b) {
			return no
		}
	default: // a number
		i := 1
		if b[0] != '_' && len(b) > 1 && (b[1] == '-' || b[1] == '+') {
			i++
		}
		_, n := number(b[i:])
		if i+n < len(b) && (n == 0 || b[i+n] != '\r') {
			return no
		}
	}
	if !ok {
		return until(v.sFull)
	}
	return fits
}
