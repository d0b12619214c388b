// Nearest vectors by comparing with every row. A row is stored as scale * (high + low / 254): `high`
// alone, 8 bits, ranks nearly right; `low`, 8 more bits that arrive later, corrects the best rows.
const CORRECTED = 8; // times as many rows are corrected as are returned, and at least 200

export class Vectors {
  constructor(dim, scales, high) {
    Object.assign(this, { dim, scales, high, low: null, count: scales.length });
  }

  // The vector of a row.
  row(number) {
    const start = number * this.dim, scale = this.scales[number];
    return Float32Array.from({ length: this.dim }, (_, i) =>
      scale * (this.high[start + i] + (this.low ? this.low[start + i] / 254 : 0)));
  }

  // Returns [row, cosine] of the `top` rows nearest to a unit vector, best first.
  // accepts: a function of a row number, or null.
  search(query, top, accepts) {
    const { scores, rows } = this.#roughScores(query, accepts);
    const wanted = this.low ? Math.max(CORRECTED * top, 200) : top;
    const best = nearest(scores, rows, wanted);
    if (this.low) for (const row of best) scores[row] += this.#correction(query, row);
    return best.sort((a, b) => scores[b] - scores[a] || a - b).slice(0, top)
      .map((row) => [row, scores[row]]);
  }

  #roughScores(query, accepts) {
    const { dim, scales, high, count } = this, scores = new Float32Array(count), rows = [];
    for (let row = 0, start = 0; row < count; row += 1, start += dim) {
      if (accepts && !accepts(row)) continue;
      let sum = 0;
      for (let i = 0; i < dim; i += 1) sum += query[i] * high[start + i];
      scores[row] = sum * scales[row];
      rows.push(row);
    }
    return { scores, rows };
  }

  #correction(query, row) {
    const start = row * this.dim;
    let sum = 0;
    for (let i = 0; i < this.dim; i += 1) sum += query[i] * this.low[start + i];
    return sum * this.scales[row] / 254;
  }
}

// The `wanted` rows with the highest scores, in any order.
function nearest(scores, rows, wanted) {
  if (rows.length <= wanted) return rows;
  const sorted = Float32Array.from(rows, (row) => scores[row]).sort();
  const least = sorted[sorted.length - wanted];
  return rows.filter((row) => scores[row] >= least);
}
