// What a request is refused with: an HTTP status and a text for the person who sent it. Everything else that is
// thrown is a fault of this server or of the engine and becomes a 500.
export class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export const invalid = (text) => new Refusal(400, text);
export const notFound = (text) => new Refusal(404, text);
export const conflict = (text) => new Refusal(409, text);
