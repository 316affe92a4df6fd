"""Find the amicable numbers below 20,000 with `Pool.map`.

Two numbers are amicable if each is the sum of the other's divisors.  There is one call
for each number, most of them tiny; the pool has many share one message.  It prints:

    220 and 284
    1184 and 1210
    2620 and 2924
    5020 and 5564
    6232 and 6368
    10744 and 10856
    12285 and 14595
    17296 and 18416
"""

from forkrpc import Forker

LIMIT = 20_000


def divisors_sum(number):
    total, divisor = 1, 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            total += divisor
            if divisor * divisor < number:
                total += number // divisor
        divisor += 1
    return total


def main():
    sums = {1: 0}
    with Forker() as template, template.pool(divisors_sum, max=2) as pool:
        for number, total in enumerate(pool.map(range(2, LIMIT)), 2):
            if total < number and sums[total] == number:
                print(f"{total} and {number}")
            sums[number] = total


if __name__ == "__main__":
    main()
