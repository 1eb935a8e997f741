"""Asynchronous request and reply: ask several at once, take the answers as they come, do without the one that never does.

An asker sends three questions to a translator that is not running yet, and one to an oracle that never will. Each question
carries the address for the answer and a correlation id, which the answer carries too: answers come in any order, long after
the questions, and the two sides need not be online together. With three answers the asker has enough, and goes on.

    python docs/examples/request_reply.py [URL]
"""

import asyncio
import os
import sys

import mq9

URL = os.environ.get("MQ9_URL", "nats://127.0.0.1:4222")
WORDS = {"chat": "cat", "maison": "house", "hippopotame": "hippopotamus"}
ENOUGH = 3


async def ask(asker: mq9.Client, answers: str, address: str, word: str) -> str:
    """Send a question; its correlation id, by which its answer will be known."""
    correlation = f"{answers}.{word}"
    await asker.send(address, word, headers={"reply-to": answers, "correlation-id": correlation})
    return correlation


async def collect(asker: mq9.Client, answers: str, questions: dict[str, str]) -> dict[str, str]:
    """Enough answers, by question. `questions` are those asked, by correlation id; it keeps those without an answer."""
    answered: dict[str, str] = {}
    async for answer in asker.consume(answers, group_name="asker", deliver="earliest"):
        word = questions.pop(answer.headers["correlation-id"], None)
        if word is None:
            continue  # known: a crash came before its confirmation, so it came again
        answered[word] = answer.text
        print(f"asker: {word} is {answer.text}")
        if len(answered) == ENOUGH:
            break
    return answered


async def translate(url: str, inbox: str) -> None:
    """The translator: answers three questions at a time, so that a long word does not hold up the others."""

    async def answer(question: mq9.Message) -> None:
        await asyncio.sleep(len(question.text) / 20)  # long words take long
        correlation = question.headers["correlation-id"]
        await translator.send(
            question.headers["reply-to"],
            WORDS[question.text],
            headers={"correlation-id": correlation},
            msg_id=f"answer.{correlation}",  # after a crash the question comes again; the answer is stored once
        )

    async with mq9.connect(url) as translator:
        await (await translator.consume(inbox, answer, group_name="translators", deliver="earliest", concurrency=3)).wait()


async def main(url: str = URL) -> None:
    """Four questions, then a translator, then three answers."""
    async with mq9.connect(url) as asker:
        translator, oracle, answers = [await asker.mailbox_create(ttl=3600) for _ in range(3)]
        to_ask = {"hippopotame": translator, "maison": translator, "tomorrow": oracle, "chat": translator}
        questions = {await ask(asker, answers, address, word): word for word, address in to_ask.items()}
        print(f"asker: asked {', '.join(questions.values())}; nobody is online to answer")
        translating = asyncio.create_task(translate(url, translator))
        answered = await collect(asker, answers, questions)
        translating.cancel()
        await asyncio.wait([translating])
    print(f"result: answers came in the order {', '.join(answered)}; not answered: {', '.join(questions.values())}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
